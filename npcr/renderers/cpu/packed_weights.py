# SPDX-License-Identifier: Apache-2.0
"""Weights in the kernels' form, kept from call to call where no gradients follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from npcr.ops import native_network
from npcr.renderers.gated_blocks import GatedConv

Packing = Callable[[GatedConv], Tensor]  # gives the packed weights of both convolutions


class PackedWeights:
    """Packed weights of a network's gated convolutions; a copy or unpickled one starts empty.

    Weights can change without a trace: through `weight.data`, a view in numpy, or a parametrization, which computes
    them at each access. So a copy of what was packed is kept and compared, which is quicker than packing.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, tuple[list[Tensor], Tensor]] = {}  # what was packed, and the packed weights

    def get(self, gated: GatedConv) -> Tensor:
        """The packed weights of both convolutions, packed anew where they have changed."""
        weights = [gated.conv.weight.detach(), gated.gate.weight.detach()]
        kept = self._kept.get(gated)
        if kept is None or not all(map(torch.equal, kept[0], weights)):
            kept = [weight.clone() for weight in weights], native_network.pack(*weights)
            self._kept[gated] = kept
        return kept[1]

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()
