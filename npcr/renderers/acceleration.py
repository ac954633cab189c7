# SPDX-License-Identifier: Apache-2.0
"""Faster ways to run a renderer's network: torch.compile, reduced precision, CUDA graphs (docs/performance.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from npcr.renderers import Renderer
from npcr.renderers.cuda_graphs import GraphReplay
from npcr.renderers.receptive_field import Window, zero_outside

logger = logging.getLogger("npcr")

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkRun:
    """Stands in for a network's `forward`. Each of the attributes is one way to run it; none is set at first.

    The network remains the module it was, so that parameters have the names that checkpoints know. It is looked up
    through this object at every call, so that a deep copy of the network runs the copy's weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.plain: Callable[..., Tensor] = type(network).forward
        self.compiled: Callable[..., Tensor] | None = None
        self.precision: torch.dtype | None = None  # without gradients; a trainer has its own autocast
        self.graph: GraphReplay | None = None  # without gradients

    def __call__(self, x: Tensor, window: Window | None = None) -> Tensor:
        """As the network's own `forward`."""
        if window is not None and (self.compiled is not None or self.graph is not None):
            return zero_outside(self(x), window)  # what is compiled or captured keeps its size from frame to frame
        if self.graph is None or torch.is_grad_enabled():
            return self._in_precision(x, window)
        return self.graph(self._in_precision, x, [*self.network.parameters(), *self.network.buffers()])

    def _in_precision(self, x: Tensor, window: Window | None = None) -> Tensor:
        if self.precision is None or torch.is_grad_enabled():
            return self._forward(x, window)
        with torch.autocast(x.device.type, dtype=self.precision):
            return self._forward(x, window).float()

    def _forward(self, x: Tensor, window: Window | None) -> Tensor:
        if self.compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # here: the import takes seconds

            try:
                return self.compiled(self.network, x)
            except TorchDynamoException as error:
                _warn_not_compiled(error)
                self.compiled = None
        return self.plain(self.network, x, *([] if window is None else [window]))


def network_run(network: nn.Module) -> NetworkRun:
    """The `NetworkRun` of a network, put in place where there is none yet."""
    run: Any = network.forward
    if not isinstance(run, NetworkRun):
        run = NetworkRun(network)
        network.forward = run  # type: ignore[method-assign]
    return run


def compile_network(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have torch.compile compile the network when it first runs: with and without gradients, once for each.

    Sizes that change are compiled twice, the second time for any size. Where compiling fails, as without a C++
    compiler, a warning says why and the network runs as it is.
    """
    run = network_run(network)
    try:
        run.compiled = torch.compile(run.plain, backend=backend)
    except RuntimeError as error:  # a Python or a system that torch.compile does not know
        _warn_not_compiled(error)
        return
    logger.info("MODEL.COMPILE: compiling takes a minute or more, the first time that the network runs")


def prepare_rendering(renderer: Renderer, cfg: CfgNode) -> None:
    """Let RENDER.PRECISION and RENDER.CUDA_GRAPHS take effect; with gradients the network runs without them."""
    run = network_run(renderer.network)
    run.precision = PRECISIONS[cfg.RENDER.PRECISION]
    device = next(renderer.parameters()).device
    if cfg.RENDER.CUDA_GRAPHS and device.type == "cuda":
        run.graph = GraphReplay()
    elif cfg.RENDER.CUDA_GRAPHS:
        logger.warning("RENDER.CUDA_GRAPHS is True, but rendering is on the %s; frames are rendered without", device)


def _warn_not_compiled(error: Exception) -> None:
    reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__  # then come hints on debugging
    logger.warning("MODEL.COMPILE: torch.compile does not work here (%s); going on without. It needs a C++ compiler "
                   "on a CPU, Triton and a C compiler on a GPU", reason)
