# SPDX-License-Identifier: Apache-2.0
"""The layered gated U-Net, its compositing, and the renderer that joins them with the projection."""

from npcr.networks.compositing import composite, over_background
from npcr.networks.renderer import NeuralPointRenderer, RenderOutput
from npcr.networks.unet import GatedUNet

__all__ = ["GatedUNet", "NeuralPointRenderer", "RenderOutput", "composite", "over_background"]
