# SPDX-License-Identifier: Apache-2.0
"""The two forms of the renderer, layered and blended, with their networks and their compositing."""

from npcr.renderers.blended import BlendedPointRenderer
from npcr.renderers.compositing import composite, over_background
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.layered import NeuralPointRenderer, RenderOutput

PointRenderer = NeuralPointRenderer | BlendedPointRenderer

__all__ = ["BlendedPointRenderer", "GatedUNet", "NeuralPointRenderer", "PointRenderer", "RenderOutput", "composite",
           "over_background"]
