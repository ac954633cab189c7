# SPDX-License-Identifier: Apache-2.0
"""Faster ways to run a renderer's network: torch.compile, reduced precision, CUDA graphs (docs/performance.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from npcr.numerics import autocast, tf32, warn_without_tensor_cores
from npcr.renderers.cuda_graphs import GraphReplay
from npcr.renderers.norms import widen
from npcr.renderers.patches import Patch, RegionalNetwork
from npcr.renderers.receptive_field import PixelRegion, zero_outside

logger = logging.getLogger("npcr")


class NetworkRunner:
    """How a renderer runs its network: as it is, compiled, in reduced precision, as a CUDA graph.

    Each attribute is one way; none is set at first. The network is given at every call, so that a copy of a renderer
    runs its own weights, and the module keeps the names that checkpoints know.
    """

    def __init__(self) -> None:
        self.compiled: Callable[..., Tensor] | None = None  # takes the network and the images
        self.precision = "float32"  # without gradients; a trainer has its own
        self.graph: GraphReplay | None = None  # without gradients

    def __call__(self, network: nn.Module, x: Tensor, region: PixelRegion | None = None) -> Tensor:
        """Run `network` on `x` (L, C, H, W), with a region as `GatedUNet.forward` takes it."""
        if region is not None and (self.compiled is not None or self.graph is not None):
            # What is compiled or captured keeps its size from frame to frame.
            return zero_outside(self(network, x), region)
        if self.graph is None or torch.is_grad_enabled():
            return self._in_precision(network, x, region)
        return self.graph(lambda images: self._in_precision(network, images), x,
                          [*network.parameters(), *network.buffers()], self._settings(network))

    def run_within(self, network: nn.Module, x: Patch, wanted: PixelRegion) -> Tensor:
        """Run `network` for a region of its result, neither compiled nor captured: a region's size may change.

        Args:
            network: a `RegionalNetwork`.
            x: the pixels of `network.input_region(wanted)` at least.
            wanted: the region.

        Returns:
            (L, C, h, w), the pixels of the region.
        """
        assert isinstance(network, RegionalNetwork)
        with tf32(self.precision == "tf32"), autocast(self.precision, x.pixels.device, cache=False):
            return widen(network.forward_region(x, wanted))

    def _settings(self, network: nn.Module) -> object:
        """What a capture depends on beside the tensors."""
        return self.precision, self.compiled, [module.training for module in network.modules()]

    def _in_precision(self, network: nn.Module, x: Tensor, region: PixelRegion | None = None) -> Tensor:
        if torch.is_grad_enabled():
            return self._forward(network, x, region)
        # Within another autocast, its cache would give weights as they were when they were first converted.
        with tf32(self.precision == "tf32"), autocast(self.precision, x.device, cache=False):
            return widen(self._forward(network, x, region))

    def _forward(self, network: nn.Module, x: Tensor, region: PixelRegion | None) -> Tensor:
        if self.compiled is not None:
            from torch._dynamo.exc import TorchDynamoException  # here: the import takes seconds

            try:
                return self.compiled(network, x)
            except TorchDynamoException as error:
                _warn_not_compiled(error)
                self.compiled = None
        result: Tensor = network(x) if region is None else network(x, region)
        return result

    def compile(self, network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
        """Have torch.compile compile the network when it first runs: with and without gradients, once for each.

        Sizes that change are compiled twice, the second time for any size. Where compiling fails, as without a C++
        compiler, a warning gives the reason and the network runs as it is.

        Args:
            network: whose class's `forward` is compiled; any network of this class may then be run.
            backend: as of torch.compile.
        """
        try:
            self.compiled = torch.compile(type(network).forward, backend=backend)
        except RuntimeError as error:  # a Python or a system that torch.compile does not know
            _warn_not_compiled(error)
            return
        logger.info("MODEL.COMPILE: compiling takes a minute or more, the first time that the network runs")

    def prepare_rendering(self, precision: str, cuda_graphs: bool, device: torch.device) -> None:
        """Let RENDER.PRECISION and RENDER.CUDA_GRAPHS take effect; with gradients the network runs without them.

        Args:
            precision: a key of `npcr.numerics.PRECISIONS`.
            cuda_graphs: capture the network and replay it for each frame; elsewhere than on a GPU a warning says no.
            device: where frames will be rendered.
        """
        self.precision = precision
        warn_without_tensor_cores("RENDER.PRECISION", precision, device)
        if cuda_graphs and device.type == "cuda":
            self.graph = GraphReplay()
        elif cuda_graphs:
            logger.warning("RENDER.CUDA_GRAPHS is True, but rendering is on the %s; frames are rendered without",
                           device)


def _warn_not_compiled(error: Exception) -> None:
    reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__  # then come hints on debugging
    logger.warning("MODEL.COMPILE: torch.compile does not work here (%s); going on without. It needs a C++ compiler "
                   "on a CPU, Triton and a C compiler on a GPU", reason)
