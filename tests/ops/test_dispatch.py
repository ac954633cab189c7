# SPDX-License-Identifier: Apache-2.0
"""Which implementation runs: every combination of backend, device, dtype, tracing and autocast."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch

import pcpr_ext
from npcr.ops import OperatorError, compiled_available, dispatch, native
from npcr.ops.dispatch import COMPOSITE, GATED_UNET, GATHER, RASTERIZE, Operator, use_compiled

ALL = [RASTERIZE, GATHER, COMPOSITE, GATED_UNET]
TRACED = [COMPOSITE, GATED_UNET]
needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
X = torch.zeros(2, 3)


def name_of(operator: Operator) -> str:
    return operator.name


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: None)
    monkeypatch.setattr(pcpr_ext, "why_missing", lambda kind: "not built")
    dispatch._warn_once.cache_clear()
    yield
    dispatch._warn_once.cache_clear()


@needs_kernel
@pytest.mark.parametrize("operator", ALL, ids=name_of)
def test_float32_on_a_cpu(operator: Operator) -> None:
    assert use_compiled(operator, "auto", X)
    assert use_compiled(operator, "compiled", X)
    assert not use_compiled(operator, "torch", X)


@pytest.mark.parametrize("operator", ALL, ids=name_of)
def test_another_dtype(operator: Operator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever chose the dtype knows
        assert not use_compiled(operator, "auto", X, X.double())
    with pytest.raises(OperatorError, match=rf"{operator.name}: backend 'compiled' takes torch.float32, got .*float64"):
        use_compiled(operator, "compiled", X, X.double())


@pytest.mark.parametrize("operator", ALL, ids=name_of)
def test_without_a_library(operator: Operator, no_library: None) -> None:
    with pytest.warns(RuntimeWarning, match="npcr.ops on cpu runs in plain torch, slowly: not built"):
        assert not use_compiled(operator, "auto", X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not use_compiled(operator, "auto", X)  # once is enough
        assert not use_compiled(operator, "torch", X)
    with pytest.raises(OperatorError, match=rf"{operator.name}: backend 'compiled' on cpu: not built"):
        use_compiled(operator, "compiled", X)


def test_a_device_without_kernels() -> None:
    x = X.to("meta")
    with pytest.raises(OperatorError, match="there are no compiled kernels for meta devices"):
        use_compiled(COMPOSITE, "compiled", x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the network has kernels for a CPU alone: elsewhere torch is its fast way
        assert not use_compiled(GATED_UNET, "auto", x)
        assert not use_compiled(GATED_UNET, "compiled", x)


@needs_kernel
@pytest.mark.parametrize("backend", ["auto", "compiled"])
def test_autocast_reaches_what_is_plain_torch(backend: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [use_compiled(operator, backend, X) for operator in ALL] == [operator not in TRACED for operator in ALL]


@needs_kernel
@pytest.mark.parametrize("backend", ["auto", "compiled"])
def test_torch_compile_sees_what_is_plain_torch(backend: str) -> None:
    @torch.compile(backend="eager", fullgraph=True)
    def chosen(x: torch.Tensor) -> torch.Tensor:
        return x + (1 if use_compiled(GATED_UNET, backend, x) else 2)

    assert torch.equal(chosen(X), X + 2)


def test_a_library_without_code_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    library = Mock(path="_pcpr_cuda.so")
    library.why_not_ready.return_value = "no kernel image is available"
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    reason = native.why_missing(torch.device("cuda"))
    assert reason.startswith("_pcpr_cuda.so on Tesla V100: no kernel image is available. Run 'NPCR_CUDA_ARCHS=70 ")
    library.why_not_ready.return_value = ""
    native._why_not_on_gpu.cache_clear()
    assert native.why_missing(torch.device("cuda")) == ""
    native._why_not_on_gpu.cache_clear()
