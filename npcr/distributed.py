# SPDX-License-Identifier: Apache-2.0
"""Several processes of torchrun as one: which of them this is, what they tell each other, and which one speaks.

Thin over torch.distributed, whose group `ignite.distributed` finds; not over the latter's `initialize`, which in a
Slurm job overrides torchrun's numbers, and fails on a machine with fewer GPUs than processes. Without torchrun there is
one process, and everything here is trivial. Values are exchanged over gloo, whatever the device: the host decides, and
need not wait for its GPU. Who waits for a process that is gone or hangs gets a `LostProcessError` within the timeout of
`processes`.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from npcr.errors import ConfigError, LostProcessError, NpcrError
from npcr.out_of_memory import is_out_of_memory

TIMEOUT = 300.0  # seconds without an answer, after which a process is taken for lost

Value = TypeVar("Value")


@contextmanager
def processes(timeout: float = TIMEOUT) -> Iterator[None]:
    """Join the processes that torchrun started with this one, within the block; nothing without torchrun.

    Messages of all but the first process begin with the process's number, and are warnings and errors alone.

    Args:
        timeout: seconds without an answer, after which a process is taken for lost.

    Yields:
        None.

    Raises:
        LostProcessError: not all of them came within the timeout.
    """
    if launched() == 1 or _joined():
        yield
        return
    limit = timedelta(seconds=timeout)
    with _answers():
        store, number, count = next(dist.rendezvous("env://", timeout=limit))
        # torchrun keeps its store over restarts, with the addresses of processes that are gone.
        store = dist.PrefixStore(f"npcr/attempt/{restarts()}", store)
        dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=limit)
    level = logging.getLogger("npcr").level
    formatters = [(handler, handler.formatter) for handler in logging.getLogger().handlers]
    if not is_writer():
        logging.getLogger("npcr").setLevel(logging.WARNING)
        for handler, _ in formatters:
            handler.setFormatter(logging.Formatter(f"process {rank()}: %(message)s"))
    try:
        yield
    except BaseException:
        speaks()  # before the others notice that this one is gone, and say only that
        raise
    finally:
        logging.getLogger("npcr").setLevel(level)
        for handler, formatter in formatters:
            handler.setFormatter(formatter)
        dist.destroy_process_group()


def launched() -> int:
    """Return how many processes torchrun started, joined or not.

    Returns:
        1 without torchrun.
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, from 0.

    Returns:
        0 to `world_size() - 1`.
    """
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """Return how many processes there are.

    Returns:
        1 without torchrun.
    """
    return dist.get_world_size() if _joined() else 1


def is_writer() -> bool:
    """Tell whether this process writes files, shows progress and prints results: the first one does.

    Returns:
        True without torchrun.
    """
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """Choose this process's GPU: the one with the process's number on its machine.

    Args:
        device: of `npcr.cli.resolve_device`.

    Returns:
        `device` itself where there is one process, or where it is no GPU.

    Raises:
        ConfigError: the device names one GPU, or the machine has fewer than processes.
    """
    if world_size() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"MODEL.DEVICE {device} is one GPU for {world_size()} processes; set it to cuda, which gives "
                          "each its own")
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise ConfigError(f"this machine has {there} GPUs and at least {local + 1} processes; give torchrun "
                          f"--nproc_per_node {there}, or set MODEL.DEVICE cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def share(items: Sequence[Value]) -> list[Value]:
    """Choose this process's share of some work: every Nth item of N processes.

    Args:
        items: the same in all processes.

    Returns:
        `items[rank()::world_size()]`.
    """
    return list(items[rank()::world_size()])


def stretch(items: Sequence[Value]) -> list[Value]:
    """Choose this process's stretch of some work: items that follow each other, as many as the others' or one more.

    Args:
        items: the same in all processes.

    Returns:
        Its items; the stretches of all processes, by rank, are `items`.
    """
    return list(items[rank() * len(items) // world_size():(rank() + 1) * len(items) // world_size()])


def gather(value: Value) -> list[Value]:
    """Collect a value from each process; all of them must call this.

    Args:
        value: of this process; what pickle takes, on the CPU.

    Returns:
        The values by rank, in every process.

    Raises:
        LostProcessError: a process did not answer.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _answers():
        dist.all_gather_object(values, value)
    return values


def gather_shares(results: Sequence[Value]) -> list[Value]:
    """Put the results of all processes' shares into the order of the work; all of them must call this.

    Args:
        results: one for each item of this process's `share`.

    Returns:
        One for each item, in every process.

    Raises:
        LostProcessError: a process did not answer.
    """
    shares = gather(list(results))
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


def from_writer(value: Value) -> Value:
    """Take the first process's value in all of them; all of them must call this.

    Args:
        value: what it is there; anything of that type elsewhere.

    Returns:
        The first process's.

    Raises:
        LostProcessError: a process did not answer.
    """
    if world_size() == 1:
        return value
    values = [value]
    with _answers():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def sum_over(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Replace a tensor by the sum over all processes; all of them must call this.

    Args:
        tensor: of the same shape everywhere, changed.
        group: of `device_group` for a tensor on a GPU; None: for one on the CPU.

    Raises:
        LostProcessError: a process did not answer.
    """
    if world_size() > 1:
        with _answers():
            dist.all_reduce(tensor, group=group)


def device_group(device: torch.device) -> dist.ProcessGroup | None:
    """Make the group that exchanges tensors of a device: NCCL's for GPUs; all processes must call this.

    Args:
        device: of the tensors.

    Returns:
        The group; None for the CPU, and where there is one process.
    """
    if world_size() == 1 or device.type != "cuda":
        return None
    with _answers():
        return cast("dist.ProcessGroup", dist.new_group(backend="nccl"))


def barrier() -> None:
    """Wait for all processes.

    Raises:
        LostProcessError: a process did not come within the timeout.
    """
    if world_size() > 1:
        with _answers():
            dist.barrier()


def refuse_differences(facts: Mapping[str, Any]) -> None:
    """Compare facts that must be the same in all processes; all of them must call this.

    Args:
        facts: by what each is; short enough for a message.

    Raises:
        NpcrError: one differs; the message gives both values.
        LostProcessError: a process did not answer.
    """
    every = gather(dict(facts))
    for name in dict.fromkeys(name for one in every for name in one):
        for other, one in enumerate(every):
            if one.get(name) != every[0].get(name):
                raise NpcrError(f"the processes differ: {name} is {every[0].get(name)} in process 0 and "
                                f"{one.get(name)} in process {other}; start all with the same files, options and "
                                "versions")


def restarts() -> int:
    """Return how often torchrun has restarted the processes (--max-restarts).

    Returns:
        0 at first, and without torchrun.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@functools.cache
def speaks() -> bool:
    """Tell whether this process is to print the error that ends all of them: the first one that asks is.

    It is found in torchrun's own store, so that it also works before `processes`, and when others are gone.

    Returns:
        True without torchrun, and where its store does not answer: better twice than never.
    """
    if launched() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                              timeout=timedelta(seconds=10))
        return store.add(f"npcr/spoken/{restarts()}", 1) == 1
    except (RuntimeError, KeyError, ValueError):
        return True


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _answers() -> Iterator[None]:
    """Turn what torch raises where a process is gone or does not answer into a `LostProcessError`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise LostProcessError(f"another process has ended or does not answer ({_reason(error)})") from error


def _reason(error: RuntimeError) -> str:
    """The first sentence of torch's message, without the line of its source; gloo's others are advice of its own."""
    return re.sub(r"^\[[^]]*\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
