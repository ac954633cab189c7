# SPDX-License-Identifier: Apache-2.0
"""The two forms of the renderer, layered and blended, with their networks and their compositing."""

from npcr.networks.blended import BlendedPointRenderer
from npcr.networks.compositing import composite, over_background
from npcr.networks.renderer import NeuralPointRenderer, RenderOutput
from npcr.networks.unet import GatedUNet

PointRenderer = NeuralPointRenderer | BlendedPointRenderer

__all__ = ["BlendedPointRenderer", "GatedUNet", "NeuralPointRenderer", "PointRenderer", "RenderOutput", "composite",
           "over_background"]
