# SPDX-License-Identifier: Apache-2.0
"""The gated U-Net: a layer's feature image to color and alpha (NPCR; 13.0 M parameters at 35 channels)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from npcr.numerics import autocast_dtype
from npcr.renderers import cpu, gpu
from npcr.renderers.gated_blocks import DoubleConv, Down, Out, Up
from npcr.renderers.norms import ImageNorm, own_statistics
from npcr.renderers.patches import Patch, run_on_region
from npcr.renderers.receptive_field import PixelRegion, block_regions, zero_outside

SMALLEST_SIDE = 24  # pixels; four halvings must leave something for the last border to reflect

# The blocks that autocast may compute in a half type. What the others round shows most in the image: those that later
# norms enlarge and, with bfloat16's 8 bits of mantissa, those near the output (docs/performance.md).
HALF_BLOCKS = {
    torch.float16: frozenset({"down4", "up1", "up2", "up3", "up4", "alpha_down2", "alpha_up1", "alpha_up2"}),
    torch.bfloat16: frozenset({"down3", "down4", "up1", "up2"}),
}


class GatedUNet(nn.Module):
    """The U-Net of the layered form: (B, in_channels, H, W) to (B, 4, H, W), color then alpha, neither bounded.

    H and W are at least 24. Alpha is a second, shallower U-Net that also takes the color and the color net's encoder.

    Args:
        in_channels: of the feature images.
        norm: "instance", "batch" or "none" (`npcr.renderers.norms.make_norm`).
        backend: "auto" and "compiled" run on compiled kernels where there are any, which is on a CPU in float32,
            neither under autocast nor in torch.compile; "torch" never does.
    """

    def __init__(self, in_channels: int, norm: str = "instance", backend: str = "auto") -> None:
        super().__init__()
        self.in_channels = in_channels
        self.backend = backend
        self.packed_weights = cpu.PackedWeights()
        self.enter = DoubleConv(in_channels, 24, norm)
        self.down1 = Down(24, 48, norm)
        self.down2 = Down(48, 96, norm)
        self.down3 = Down(96, 384, norm)
        self.down4 = Down(384, 384, norm)
        self.up1 = Up(384 + 384, 192, norm)
        self.up2 = Up(96 + 192, 48, norm)
        self.up3 = Up(48 + 48, 48, norm)
        self.up4 = Up(24 + 48, 30, norm)
        self.out = Out(30, 3)

        self.alpha_enter = DoubleConv(in_channels + 3, 16, norm)
        self.alpha_down1 = Down(16, 32, norm)
        self.alpha_down2 = Down(32, 64, norm)
        self.alpha_up1 = Up(48 + 32 + 64, 32, norm)
        self.alpha_up2 = Up(24 + 16 + 32, 8, norm)
        self.alpha_out = Out(8, 1)

    def forward(self, x: Tensor, region: PixelRegion | None = None) -> Tensor:
        """Run the network.

        Args:
            x: (B, in_channels, H, W).
            region: the pixels that are wanted; the result is 0 outside, and where the kernels can, only what the region
                depends on is computed. None: all.

        Returns:
            (B, 4, H, W).

        Raises:
            ValueError: x has the wrong shape.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(f"GatedUNet: x must be (B, {self.in_channels}, H, W) with H and W at least "
                             f"{SMALLEST_SIDE}, is {tuple(x.shape)}")
        on_kernels = (gpu.block_runner(self, x, self.backend)
                      or cpu.block_runner(self, x, region, self.backend, self.packed_weights))
        if on_kernels is None:
            result = self._forward(self._run_block, x)
        elif len(x) > 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
            # One by one they stay in the processor's caches.
            result = torch.cat([self._forward(on_kernels, image) for image in x.split(1)])
        else:
            result = self._forward(on_kernels, x)
        return result if region is None else zero_outside(result, region)

    @property
    def looks_at_whole_images(self) -> bool:
        """Whether a norm takes its statistics from the image, so that no region of it is enough."""
        return any(own_statistics(module) for module in self.modules()
                   if isinstance(module, (ImageNorm, nn.BatchNorm2d)))

    def input_region(self, wanted: PixelRegion) -> PixelRegion:
        """As `RegionalNetwork.input_region`."""
        plan = block_regions(wanted)
        return plan["enter"].union(plan["alpha_enter"]).grown(2)

    def forward_region(self, x: Patch, wanted: PixelRegion) -> Tensor:
        """As `RegionalNetwork.forward_region`, in plain torch."""
        if self.looks_at_whole_images:
            raise ValueError("GatedUNet: a norm looks at the whole image; regions need norm none, or batch in eval "
                             "mode")
        plan = block_regions(wanted)

        def run(name: str, *inputs: Patch) -> Patch:
            return Patch(self._run_block(name, *inputs, region=plan[name]), plan[name])

        color, alpha = self._wire(run, x)
        return torch.cat([color.part(wanted), alpha.part(wanted)], dim=1)

    def _run_block(self, name: str, *inputs: Any, region: PixelRegion | None = None) -> Tensor:
        """Run a block on tensors or, for a region of its result, on patches."""
        module: nn.Module = getattr(self, name)
        block: Callable[..., Tensor] = module if region is None else partial(run_on_region, module, region)
        device = self.enter.conv1.conv.weight.device
        half = autocast_dtype(device)
        if half is None:
            return block(*inputs)
        with torch.autocast(device.type, half, enabled=name in HALF_BLOCKS[half]):
            return block(*inputs)

    def _forward(self, run: Callable[..., Any], x: Tensor) -> Tensor:
        return torch.cat(self._wire(run, x), dim=1)

    def _wire(self, run: Callable[..., Any], x: Any) -> tuple[Any, Any]:
        """Wire the blocks; `run(name, *inputs)` runs one of them. Returns the results of `out` and `alpha_out`."""
        level1 = run("enter", x)
        level2 = run("down1", level1)
        level3 = run("down2", level2)
        level4 = run("down3", level3)
        up = run("up1", run("down4", level4), level4)
        up = run("up2", up, level3)
        up = run("up3", up, level2)
        color = run("out", run("up4", up, level1))

        alpha1 = run("alpha_enter", x, color)
        alpha2 = run("alpha_down1", alpha1)
        up = run("alpha_up1", run("alpha_down2", alpha2), level2, alpha2)
        alpha = run("alpha_out", run("alpha_up2", up, level1, alpha1))
        return color, alpha
