# SPDX-License-Identifier: Apache-2.0
"""The gated U-Net on the CPU's compiled kernels; README.md describes them, and how to do without."""

from npcr.renderers.cpu.packed_weights import PackedWeights
from npcr.renderers.cpu.runner import block_runner

__all__ = ["PackedWeights", "block_runner"]
