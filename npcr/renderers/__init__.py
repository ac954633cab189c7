# SPDX-License-Identifier: Apache-2.0
"""The two forms of the renderer, layered and blended, with their networks and their compositing."""

from npcr.renderers.blended import BlendedRenderer
from npcr.renderers.compositing import composite, over_background
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.layered import LayeredRenderer, RenderOutput

Renderer = LayeredRenderer | BlendedRenderer

__all__ = [
           "BlendedRenderer",
           "GatedUNet",
           "LayeredRenderer",
           "RenderOutput",
           "Renderer",
           "composite",
           "over_background",
]
