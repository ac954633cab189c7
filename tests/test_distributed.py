# SPDX-License-Identifier: Apache-2.0
"""One process is several in the simplest case; several exchange what they have and end together."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from npcr import distributed
from npcr.command_line import main
from npcr.errors import ConfigError, LostProcessError, NpcrError
from tests.training.processes import run_together


def exchange() -> dict[str, Any]:
    """What a process gets from all."""
    total = torch.full((2,), float(distributed.rank()))
    distributed.sum_over(total)
    distributed.barrier()
    rank, cpu = distributed.rank(), torch.device("cpu")
    return {"gathered": distributed.gather(rank), "first": distributed.from_writer(rank + 7), "sum": total.tolist(),
            "shares": distributed.gather_shares([10 * item for item in distributed.share(range(5))]),
            "writer": distributed.is_writer(), "device": distributed.own_device(cpu)}


def test_one_process() -> None:
    with distributed.processes():
        assert exchange() == {"gathered": [0], "first": 7, "shares": [0, 10, 20, 30, 40], "sum": [0.0, 0.0],
                              "writer": True, "device": torch.device("cpu")}
        distributed.refuse_differences({"anything": os.getpid()})
        assert distributed.own_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert distributed.speaks()


def exchange_and_part() -> list[Any]:
    """What three processes get; what they say to differences, and when the second one is gone."""
    said = [exchange()]
    for facts, device in (({"the answer": 42, "the rank": distributed.rank() // 2}, "cpu"), ({}, "cuda:0")):
        try:
            distributed.refuse_differences(facts)
            distributed.own_device(torch.device(device))
        except (ConfigError, NpcrError) as error:
            said.append(str(error))
    if distributed.rank() == 1:
        return said
    with pytest.raises(LostProcessError, match="another process has ended or does not answer") as lost:
        distributed.gather("never")
    assert ". " not in str(lost.value)  # gloo's advice is left out
    return said


def test_three_processes() -> None:
    answers = run_together(3, exchange_and_part)
    for rank, (got, difference, one_gpu) in enumerate(answers):
        assert got == {"gathered": [0, 1, 2], "first": 7, "shares": [0, 10, 20, 30, 40], "sum": [3.0, 3.0],
                       "writer": rank == 0, "device": torch.device("cpu")}
        assert "the rank is 0 in process 0 and 1 in process 2" in difference
        assert "MODEL.DEVICE cuda:0 is one GPU for 3 processes" in one_gpu


def test_a_command_for_one_process_refuses_several(monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        main(["check", "scene"])
    assert capsys.readouterr().err == ("error: npcr check is for one process, and torchrun started 2; start it without "
                                       "torchrun\n")
