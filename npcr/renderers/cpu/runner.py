# SPDX-License-Identifier: Apache-2.0
"""The blocks of the gated U-Net on the CPU's kernels: the same functions as in `npcr.renderers.gated_blocks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.ops.dispatch import GATED_UNET, use_compiled
from npcr.renderers.cpu.autograd import convolution, gated_layer, resize
from npcr.renderers.cpu.packed_weights import PackedWeights, Packing
from npcr.renderers.cpu.rematerialize import FeatureMap
from npcr.renderers.gated_blocks import DoubleConv, Down, Out, Up
from npcr.renderers.norms import ImageNorm, own_statistics
from npcr.renderers.receptive_field import PixelRegion, block_regions

BlockRunner = Callable[..., "FeatureMap | Tensor"]  # name of the block, inputs; a Tensor where the block is an Out


def block_runner(network: nn.Module, x: Tensor, region: PixelRegion | None, backend: str,
                 packed: PackedWeights) -> BlockRunner | None:
    """Choose the kernels for running a network's blocks, where they apply.

    Args:
        network: a `npcr.renderers.gated_unet.GatedUNet`.
        x: its input, (B, C, H, W).
        region: the pixels of the result that are wanted; None: all. The others then hold anything.
        backend: "auto", "compiled" or "torch".
        packed: of this network.

    Returns:
        `run(name, *inputs)`, which gives what the block of that name makes of its inputs; None where torch is to run.

    Raises:
        OperatorError: backend "compiled" was asked for and cannot serve.
    """
    if not use_compiled(GATED_UNET, backend, x, *_floating_point(network)):
        return None
    regions = block_regions(region) if region is not None and supports_regions(network) else {}

    packing = cache(packed.get)  # so that weights are compared once, not for each image again

    def run(name: str, *inputs: FeatureMap | Tensor) -> FeatureMap | Tensor:
        return run_block(getattr(network, name), inputs, packing, regions.get(name))

    return run


def _floating_point(network: nn.Module) -> list[Tensor]:
    """Weights and statistics: the kernels read their memory, whatever they are."""
    return [tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point()]


def supports_regions(network: nn.Module) -> bool:
    """Return whether a network can compute a part of its pixels alone.

    Args:
        network: as in `block_runner`.

    Returns:
        True without gradients, where no norm has statistics of the whole image.
    """
    return not torch.is_grad_enabled() and not any(
        own_statistics(module) for module in network.modules() if isinstance(module, (ImageNorm, nn.BatchNorm2d)))


def run_block(block: nn.Module, inputs: Sequence[FeatureMap | Tensor], packing: Packing,
              region: PixelRegion | None = None) -> FeatureMap | Tensor:
    """Run a block of the network.

    Args:
        block: a DoubleConv, Down, Up or Out.
        inputs: as the block's `forward` takes them.
        packing: gives the packed weights of the block's gated convolutions; used without gradients.
        region: the pixels of the result to compute; None: all.

    Returns:
        Of an Out a tensor (B, C, H, W), of the others a feature map.
    """
    maps = [x if isinstance(x, FeatureMap) else FeatureMap.of(x) for x in inputs]
    if isinstance(block, Out):
        return _out(block, maps[0], region)
    if isinstance(block, Down):
        height, width = maps[0].tensor.shape[2:]
        return _double_conv(block.conv, [resize(maps[0], (height // 2, width // 2))], packing, region)
    if isinstance(block, Up):
        x, *skips = maps
        height, width = skips[0].tensor.shape[2:]
        return _double_conv(block.conv, [*skips, resize(x, (height, width))], packing, region)
    assert isinstance(block, DoubleConv)
    return _double_conv(block, maps, packing, region)


def _double_conv(block: DoubleConv, maps: Sequence[FeatureMap], packing: Packing,
                 region: PixelRegion | None) -> FeatureMap:
    between = gated_layer(maps, block.conv1, block.norm1, packing, region and region.grown(1))
    return gated_layer([between], block.conv2, block.norm2, packing, region)


def _out(block: Out, x: FeatureMap, region: PixelRegion | None) -> Tensor:
    weight = block.spatial.weight + F.pad(block.point.weight, (1, 1, 1, 1))  # 1x1 weights are the middle of 3x3 ones
    assert block.point.bias is not None
    assert block.spatial.bias is not None
    return convolution(x, weight, block.point.bias + block.spatial.bias, region)
