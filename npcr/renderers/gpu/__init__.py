# SPDX-License-Identifier: Apache-2.0
"""The gated U-Net on Triton kernels; README.md describes them, and how to do without."""

from npcr.renderers.gpu.runner import block_runner

__all__ = ["block_runner"]
