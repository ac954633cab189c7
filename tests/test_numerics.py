# SPDX-License-Identifier: Apache-2.0
"""TF32, half types and deterministic algorithms: what the contexts set, that they set it back, and what they say."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from npcr import cli
from npcr.errors import ConfigError
from npcr.numerics import PRECISIONS, autocast, autocast_dtype, deterministic, tf32, warn_without_tensor_cores
from npcr.renderers.acceleration import NetworkRunner

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def switches() -> tuple[Any, ...]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("before", [("highest", True), ("medium", False), ("high", True)])
def test_tf32_is_set_for_convolutions_and_products_and_set_back(before: tuple[str, bool], allowed: bool) -> None:
    kept = switches()
    try:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        with tf32(allowed):
            assert switches() == (("high", True) if allowed else ("highest", False))
        assert switches() == before
        with pytest.raises(KeyError), tf32(allowed):
            raise KeyError
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has one interface only")
def test_tf32_where_the_process_uses_torchs_newer_interface() -> None:
    """Reading the older one raises then, in a process that is not ours to disturb."""
    code = """
import torch
from npcr.numerics import tf32

parts = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
parts[1].fp32_precision = "ieee"
before = [part.fp32_precision for part in parts]
for allowed in (False, True):
    with tf32(allowed):
        assert [part.fp32_precision for part in parts] == 3 * ["tf32" if allowed else "ieee"]
    assert [part.fp32_precision for part in parts] == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_scripts_compute_without_tf32() -> None:
    kept, seen = switches(), []
    cli.run(lambda: seen.append(switches()))
    assert seen == [("highest", False)]
    assert switches() == kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_without_gradients_runs_in_its_precision_and_leaves_nothing_behind(precision: str) -> None:
    run, seen, kept = NetworkRunner(), [], switches()
    run.precision = precision

    class Watch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((switches()[1], autocast_dtype(x.device)))
            return x.to(torch.float16)

    with torch.no_grad():
        assert run(Watch(), torch.ones(1)).dtype == torch.float32
    assert seen == [(precision == "tf32", PRECISIONS[precision])]
    assert switches() == kept
    assert autocast_dtype(CPU) is None


def test_autocast_by_name() -> None:
    for name, dtype in PRECISIONS.items():
        with autocast(name, CPU):
            assert autocast_dtype(CPU) == dtype


@pytest.mark.parametrize(("precision", "device", "capability", "wanted"), [
    ("float32", CPU, None, ""), ("tf32", CPU, None, "on the cpu it computes in float32"),
    ("float16", CPU, None, "on the cpu that is slower than float32"),
    ("float16", CUDA, (7, 0), ""), ("bfloat16", CUDA, (8, 0), ""), ("tf32", CUDA, (9, 0), ""),
    ("tf32", CUDA, (7, 0), "V100-X has no tensor cores; it computes in float32"),
    ("bfloat16", CUDA, (7, 5), "V100-X has no tensor cores; that is slower"),
    ("float16", CUDA, (6, 1), "V100-X has no tensor cores; that is slower")])
def test_a_device_without_tensor_cores_is_named(precision: str, device: torch.device, capability: tuple[int, int],
                                                wanted: str, monkeypatch: pytest.MonkeyPatch,
                                                caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "V100-X")
    with caplog.at_level(logging.WARNING, "npcr"):
        warn_without_tensor_cores("RENDER.PRECISION", precision, device)
    assert len(caplog.records) == bool(wanted)
    assert wanted in caplog.text


def test_deterministic_sets_and_sets_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
    with pytest.raises(KeyError), deterministic(True):
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert torch.utils.deterministic.fill_uninitialized_memory == filling  # type: ignore[attr-defined]


def test_an_operation_without_a_deterministic_algorithm_is_a_users_error() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.DETERMINISTIC True .*put_ does not have"), deterministic(True):
        raise RuntimeError("put_ does not have a deterministic implementation, but you set it.\nMore.")
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")


def test_the_workspace_that_cublas_needs_is_set_before_cuda_starts() -> None:
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
