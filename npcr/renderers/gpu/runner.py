# SPDX-License-Identifier: Apache-2.0
"""How the gated U-Net's blocks run on a GPU, and when they do."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.numerics import current_precision
from npcr.renderers.gated_blocks import DoubleConv, Down, GatedConv, Out, Up
from npcr.renderers.gpu import autograd
from npcr.renderers.gpu.feature_map import FeatureMap, padded
from npcr.renderers.norms import ImageNorm

logger = logging.getLogger("npcr")

BlockRunner = Callable[..., Any]

# With float16 these blocks compute with the sum of two: what they round, later norms enlarge most.
EXACT_BLOCKS = frozenset({"enter", "down1", "down2", "down3"})
OLDEST_TRITON = (3, 6)  # that the kernels were tested with
LARGEST = 2**31  # values of an image's feature map that a kernel can address
WIDEST = 64  # channels of a whole image's largest feature map but the input: value and gate of the last decoder


def block_runner(network: nn.Module, x: Tensor, backend: str) -> BlockRunner | None:
    """Choose these kernels for running a network's blocks, where they apply.

    Args:
        network: a `npcr.renderers.gated_unet.GatedUNet`.
        x: its input, (B, C, H, W).
        backend: "auto" and "compiled" allow them, "torch" does not.

    Returns:
        `run(name, *inputs)`, which gives what the block of that name makes of its inputs; None where torch is to run.
    """
    # What torch.compile cannot trace is not asked.
    if torch.compiler.is_compiling() or backend == "torch" or current_precision() not in ("float16", "float16x2"):
        return None
    reason = why_not(network, x)
    if reason is not None:
        _say_why_not(current_precision(), reason)
        return None
    _say_that_it_compiles()
    return runner_of(network, EXACT_BLOCKS if current_precision() == "float16" else None)


@cache
def _say_why_not(precision: str, reason: str) -> None:
    """Once for each reason."""
    instead = "computes in float32" if precision == "float16x2" else "is slower and less exact"
    logger.warning("%s: the layered form's network does not run on its Triton kernels: %s. It %s", precision, reason,
                   instead)


@cache
def _say_that_it_compiles() -> None:
    logger.info("Triton compiles the network's kernels, which takes up to a minute where it has not done so before "
                "(PROJECTION.BACKEND torch does without these kernels)")


def why_not(network: nn.Module, x: Tensor) -> str | None:
    """Return why these kernels cannot run a network.

    Args:
        network: a `npcr.renderers.gated_unet.GatedUNet`.
        x: its input.

    Returns:
        The reason; None where they can.
    """
    if not x.is_cuda:
        return "they are for GPUs"
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        return "they need a GPU of compute capability 8.0 (A100) or newer"
    missing = why_no_triton()
    if missing is not None:
        return missing
    if not all(isinstance(block.norm1, ImageNorm) for block in network.modules() if isinstance(block, DoubleConv)):
        return "they need MODEL.NORM instance"
    if x.dtype != torch.float32 or any(parameter.dtype != torch.float32 for parameter in network.parameters()):
        return "they need float32 weights and input"
    pixels, widest = x.shape[2] * x.shape[3], max(WIDEST, padded(x.shape[1]))
    if pixels * widest >= LARGEST:
        return f"they address fewer than {LARGEST // widest:,} pixels, the image has {pixels:,}"
    return None


@cache
def why_no_triton() -> str | None:
    """Return why the installed packages do not suffice.

    Returns:
        The reason; None where they do.
    """
    needed = "they need Triton {}.{} or newer".format(*OLDEST_TRITON)
    try:
        installed = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return f"{needed}, which is not installed"
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TRITON:
        return f"{needed}, installed is {installed}"
    return None


def runner_of(network: nn.Module, exact: frozenset[str] | None) -> BlockRunner:
    """Return the function that runs a block by its name.

    Args:
        network: a `npcr.renderers.gated_unet.GatedUNet`.
        exact: names of the blocks that compute with the sum of two float16; None: all.

    Returns:
        `run(name, *inputs)`, as `GatedUNet._wire` calls it.
    """
    images: dict[int, tuple[Tensor, FeatureMap]] = {}  # the network's input is split once for both that read it

    def feature_map(x: FeatureMap | Tensor) -> FeatureMap:
        if isinstance(x, FeatureMap):
            return x
        if id(x) not in images:
            images[id(x)] = x, autograd.split(x, is_split=exact is None or bool(exact))
        return images[id(x)][1]

    def run(name: str, *inputs: FeatureMap | Tensor) -> FeatureMap | Tensor:
        return run_block(getattr(network, name), [feature_map(x) for x in inputs], exact is None or name in exact)

    return run


def run_block(block: nn.Module, inputs: Sequence[FeatureMap], is_split: bool) -> FeatureMap | Tensor:
    """Run a block of the network.

    Args:
        block: a DoubleConv, Down, Up or Out.
        inputs: as the block's `forward` takes them.
        is_split: compute with the sum of two float16.

    Returns:
        Of an Out a tensor (B, C, H, W) float32, of the others a feature map.
    """
    if isinstance(block, Out):
        weight = block.spatial.weight + F.pad(block.point.weight, (1, 1, 1, 1))
        return autograd.convolve(inputs[0], weight, _bias(block.spatial) + _bias(block.point), is_split)
    if isinstance(block, Down):
        return _double_conv(block.conv, [autograd.halve(inputs[0], is_split)], is_split)
    if isinstance(block, Up):
        x, *skips = inputs
        return _double_conv(block.conv, [*skips, x], is_split, doubled=True)
    assert isinstance(block, DoubleConv)
    return _double_conv(block, inputs, is_split)


def _double_conv(block: DoubleConv, sources: Sequence[FeatureMap], is_split: bool, doubled: bool = False
                 ) -> FeatureMap:
    between = _gated_layer(block.conv1, block.norm1, sources, is_split, doubled)
    return _gated_layer(block.conv2, block.norm2, [between], is_split)


def _gated_layer(conv: GatedConv, norm: nn.Module, sources: Sequence[FeatureMap], is_split: bool,
                 doubled: bool = False) -> FeatureMap:
    assert isinstance(norm, ImageNorm)
    weight = torch.cat([conv.conv.weight, conv.gate.weight])
    bias = torch.cat([_bias(conv.conv), _bias(conv.gate)])
    return autograd.gated_layer(sources, weight, bias, (norm.weight, norm.bias, norm.eps), is_split, doubled)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # nn.Conv2d's type allows None; ours always have one
    return conv.bias
