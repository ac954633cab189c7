# SPDX-License-Identifier: Apache-2.0
"""Processes that train together, as torchrun starts them but without its seconds: forked from one that has torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from yacs.config import CfgNode

from npcr import distributed
from npcr.checkpoints import load_model
from npcr.errors import NpcrError
from npcr.training.trainer import Trainer
from tests.training.test_trainer import SmallNetwork

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.training.processes"])

Body = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_together(count: int, body: Body, *arguments: Any, timeout: float = 100.0, limit: float = 150.0,
                 survivors: int | None = None) -> list[Any]:
    """Call `body(*arguments)` in processes that know each other; what each returned, or the message of its error.

    What stands in a list of `count` arguments is for one process each. A process that died by itself gives None, and
    so does one that hangs when `survivors` others have ended.
    """
    port, answers = free_port(), _FORKS.SimpleQueue()
    children = []
    for rank in range(count):
        own = [each[rank] if isinstance(each, list) else each for each in arguments]
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        children.append(_FORKS.Process(target=_child, args=(environment, timeout, answers, body, own), daemon=True))
        children[-1].start()
    end = time.monotonic() + limit
    results: list[Any] = [None] * count
    while sum(child.is_alive() for child in children) > count - (survivors or count) or not answers.empty():
        while not answers.empty():
            rank, result = answers.get()
            results[rank] = result
        if time.monotonic() > end:
            for child in children:
                child.kill()
            raise TimeoutError(f"{count} processes took more than {limit:g} s")
        time.sleep(0.02)
    for child in children:
        child.kill()
    return results


def _child(environment: dict[str, str], timeout: float, answers: Any, body: Body, arguments: list[Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        with distributed.processes(timeout):
            result = body(*arguments)
    except NpcrError as error:
        result = f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        result = "KeyboardInterrupt"
    answers.put((int(environment["RANK"]), result))


def train(cfg: CfgNode) -> int:
    """Train as `train_whole`, but the layered form with a small network."""
    with mock.patch("npcr.renderers.layered.GatedUNet", SmallNetwork):
        return train_whole(cfg)


def train_whole(cfg: CfgNode) -> int:
    """Train; the steps that were made.

    With one thread, as in each of several processes: torch's convolutions round otherwise with two.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = Trainer(cfg, torch.device("cpu"))
        trainer.run()
    finally:
        torch.set_num_threads(threads)
    return trainer.iteration


def train_together(count: int, cfg: CfgNode) -> list[Any]:
    """Train in processes; in this one where it is one."""
    return [train(cfg)] if count == 1 else run_together(count, train, cfg)


def distance(a: Path, b: Path) -> float:
    """The norm of the difference of two models' weights, relative to that of the first."""
    first, second = (torch.cat([value.double().flatten() for value in load_model(path).model.values()])
                     for path in (a, b))
    return float((first - second).norm() / first.norm())
