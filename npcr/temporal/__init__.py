# SPDX-License-Identifier: Apache-2.0
"""Steady video: neighboring frames of a camera path, reprojected onto each other and blended (docs/temporal.md)."""

from npcr.temporal.blending import Blender, DefaultBlender, LegacyBlender
from npcr.temporal.legacy import reproject_legacy
from npcr.temporal.reprojection import RenderedFrame, find_warp, reproject, sample_smoothly, surface_depth

__all__ = ["Blender", "DefaultBlender", "LegacyBlender", "RenderedFrame", "find_warp", "reproject", "reproject_legacy",
           "sample_smoothly", "surface_depth"]
