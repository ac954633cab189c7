# SPDX-License-Identifier: Apache-2.0
"""The forms of the renderer, by the names that MODEL.FORM has for them.

A further form subclasses `Renderer` in a file of its own and is registered here; docs/extending.md has an example.
"""

from __future__ import annotations

from npcr.errors import ConfigError
from npcr.renderers.base import Photographs, Renderer, RenderOutput, SplatRenderer
from npcr.renderers.blended import BlendedRenderer
from npcr.renderers.compositing import composite, over_background
from npcr.renderers.layered import LayeredRenderer
from npcr.renderers.strands import StrandsRenderer

__all__ = ["FORMS", "BlendedRenderer", "LayeredRenderer", "Photographs", "RenderOutput", "Renderer",
           "SplatRenderer", "StrandsRenderer", "composite", "find_form", "over_background"]

FORMS: dict[str, type[Renderer]] = {
    "layered": LayeredRenderer,
    "blended": BlendedRenderer,
    "strands": StrandsRenderer,
}


def find_form(name: str) -> type[Renderer]:
    """Look up a form of the renderer.

    Args:
        name: a value of MODEL.FORM.

    Returns:
        The class.

    Raises:
        ConfigError: there is no such form; the message names those there are.
    """
    if name not in FORMS:
        raise ConfigError(f"MODEL.FORM is {name!r}; allowed: {', '.join(FORMS)}")
    return FORMS[name]
