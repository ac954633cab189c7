# SPDX-License-Identifier: Apache-2.0
"""Between a renderer and its checkpoint: parameters in, parameters out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npcr.checkpoints.files import ModelCheckpoint
from npcr.errors import CheckpointError
from npcr.io.points import PointCloud
from npcr.renderers import Renderer


def load_parameters(renderer: Renderer, checkpoint: ModelCheckpoint, path: Path) -> None:
    """Copy a checkpoint's parameters into a renderer; every one must be there and fit.

    Args:
        renderer: takes the parameters; its clouds stay.
        checkpoint: what was read.
        path: where from, for messages.

    Raises:
        CheckpointError: a parameter is missing, unknown, or of another shape.
    """
    wanted = renderer.state_dict()
    for name in sorted(wanted.keys() | checkpoint.model.keys()):
        if name not in checkpoint.model or name not in wanted:
            problem = "lacks" if name in wanted else "has a parameter unknown here,"
            raise CheckpointError(f"{path}: {problem} {name}")
        found, expected = tuple(checkpoint.model[name].shape), tuple(wanted[name].shape)
        if found != expected:
            hint = " (a feature row per point: is this the cloud it was trained on?)" if "features" in name else ""
            raise CheckpointError(f"{path}: {name} is {found}, the configuration and scene need {expected}{hint}")
    renderer.load_state_dict(checkpoint.model)


def make_checkpoint(renderer: Renderer, clouds: Sequence[PointCloud], config: dict[str, Any],
                    epoch: int) -> ModelCheckpoint:
    """Collect everything that rendering needs: parameters, points, configuration, epoch.

    Args:
        renderer: the model.
        clouds: one for each frame; colors are kept where all of them have some.
        config: the configuration as nested plain values (`npcr.config.to_dict`).
        epoch: from 0.

    Returns:
        The checkpoint, on the CPU, sharing memory with the renderer where that is on the CPU.
    """
    colors = [torch.from_numpy(np.asarray(c.colors)) for c in clouds if c.colors is not None]
    return ModelCheckpoint(
        epoch=epoch, config=config,
        model={name: value.detach().cpu().contiguous() for name, value in renderer.state_dict().items()},
        points=[torch.from_numpy(cloud.positions) for cloud in clouds],
        colors=colors if len(colors) == len(clouds) else [])
