# SPDX-License-Identifier: Apache-2.0
"""Weights in the kernels' form, kept from call to call where no gradients follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from npcr.ops import native_network
from npcr.renderers.gated_blocks import GatedConv

_Version = list[tuple[int, int]]  # of each parameter: its address, and how often it was changed in place


class PackedWeights:
    """Packed weights and biases of a network's gated convolutions; a copy or unpickled one starts empty."""

    def __init__(self) -> None:
        self._kept: dict[nn.Module, tuple[_Version, Tensor, Tensor]] = {}

    def get(self, gated: GatedConv) -> tuple[Tensor, Tensor]:
        """The packed weights and the biases (2 outputs,) of both convolutions, packed anew where they have changed."""
        conv, gate = gated.conv, gated.gate
        assert conv.bias is not None
        assert gate.bias is not None
        parameters = (conv.weight, gate.weight, conv.bias, gate.bias)
        version = [(p.data_ptr(), p._version) for p in parameters]
        kept = self._kept.get(gated)
        if kept is None or kept[0] != version:
            kept = version, native_network.pack(conv.weight, gate.weight), torch.cat(parameters[2:]).detach()
            self._kept[gated] = kept
        return kept[1], kept[2]

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()
