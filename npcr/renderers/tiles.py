# SPDX-License-Identifier: Apache-2.0
"""Pictures rendered in tiles, in the memory of one tile's network, for those that are larger than memory.

Points are projected once for the whole picture. A tile's network sees as much around it as it needs, so that no seam
shows (`npcr.renderers.patches`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.renderers.base import Renderer, RenderOutput
from npcr.renderers.receptive_field import PixelRegion

logger = logging.getLogger("npcr")


def render_pictures(renderer: Renderer, cameras: Cameras, frame: int = 0) -> RenderOutput:
    """Render pictures: at once, or in tiles where they are larger than `renderer.tile`.

    Args:
        renderer: in eval mode.
        cameras: B, on the renderer's device.
        frame: from 0.

    Returns:
        The pictures; in tiles without gradients, without layers (K is 0) and without `index`.
    """
    width, height = cameras.size
    if not renderer.tile or max(width, height) <= renderer.tile:
        return renderer(cameras, frame)  # type: ignore[no-any-return]
    with torch.no_grad():
        planes = torch.empty(len(cameras), 8 if renderer.legacy else 5, height, width, device=renderer.device)
        for i in range(len(cameras)):
            paint = renderer.painter(cameras[i], frame)
            for region in tiles((height, width), renderer.tile):
                region.within(planes[i:i + 1]).copy_(_planes(paint(region)))
    color, alpha, depth = planes[:, :3], planes[:, 3:4], planes[:, 4]
    return RenderOutput(color, alpha, depth, planes.new_empty(len(cameras), 0, 4, height, width),
                        planes.new_empty(len(cameras), 0, height, width), None,
                        planes[:, 5:] if renderer.legacy else None)


def _planes(output: RenderOutput) -> Tensor:
    """(1, 5 or 8, h, w): color, alpha, depth and perhaps the legacy color."""
    legacy = [] if output.legacy_color is None else [output.legacy_color]
    return torch.cat([output.color, output.alpha, output.depth[:, None], *legacy], dim=1)


def tiles(size: tuple[int, int], side: int) -> Iterator[PixelRegion]:
    """Cut an image in tiles, row by row.

    Args:
        size: (height, width), pixels.
        side: of a tile, pixels; at the right and at the bottom they may be smaller.

    Yields:
        The tiles.
    """
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield PixelRegion(left, top, min(left + side, size[1]), min(top + side, size[0]), size)


def describe_tiles(renderer: Renderer, size: tuple[int, int]) -> str:
    """Say into how many tiles a picture is cut.

    Args:
        renderer: whose `tile` is above 0.
        size: (width, height), pixels.

    Returns:
        A sentence.
    """
    side = renderer.tile
    height, width = size[1], size[0]
    if max(size) <= side:
        return f"RENDER.TILE {side}: pictures of {width}x{height} pixels are rendered whole, since they are no larger"
    count = sum(1 for _ in tiles((height, width), side))
    far = 2**20  # pixels: the middle of an image that has borders nowhere near
    middle = PixelRegion(far, far, far + side, far + side, (2 * far + side, 2 * far + side))
    seen = renderer.input_region(middle)
    overlap = max(far - seen.left, seen.right - middle.right)
    return (f"RENDER.TILE {side}: each picture of {width}x{height} pixels is rendered in {count} tiles, the network of "
            f"each seeing up to {overlap} pixels more on each side")
