# SPDX-License-Identifier: Apache-2.0
"""Frames that several processes render for one loss, put together in all of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from npcr.cameras import Cameras
from npcr.temporal import RenderedFrame
from npcr.training.exchange import StepExchange


def gather_frames(own: Mapping[int, RenderedFrame], cameras: Cameras, channels: int,
                  exchange: StepExchange | None) -> list[RenderedFrame]:
    """Give every process all frames, of which each rendered some; all of them must call this.

    Args:
        own: the frames that this process rendered, by number from 0; each frame is rendered by one process.
        cameras: of all frames, on the renderer's device.
        channels: of a frame's image.
        exchange: None where there is one process, which rendered all.

    Returns:
        All frames in order: those of `own` as they are, those of other processes without gradients.

    Raises:
        LostProcessError: a process did not answer.
    """
    if exchange is None:
        return [own[number] for number in range(len(cameras))]
    width, height = cameras.size
    together = torch.zeros(len(cameras), channels + 1, height, width, device=cameras.cam_to_world.device)
    for number, frame in own.items():
        together[number] = torch.cat([frame.image[0].detach(), frame.depth])
    exchange.sum(together)
    return [own[number] if number in own else RenderedFrame(one[None, :-1], one[-1:], cameras[number])
            for number, one in enumerate(together)]
