# SPDX-License-Identifier: Apache-2.0
"""What a trained model is once read: network and features, configuration, epoch, points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from npcr.errors import CheckpointError


@dataclass
class ModelCheckpoint:
    """One trained model. `points` is empty where the file holds none (converted published models)."""

    epoch: int
    config: dict[str, Any]  # nested, of known keys; a part of them suffices
    model: dict[str, Tensor]  # the state dict of a `Renderer`
    points: list[Tensor] = field(default_factory=list)  # a frame each: (N, 3) float32
    colors: list[Tensor] = field(default_factory=list)  # a frame each: (N, 3) uint8; or none at all


def check_model(checkpoint: ModelCheckpoint, source: str) -> None:
    """Raise `CheckpointError`, beginning with `source`, where the parts of a model contradict each other."""
    default = checkpoint.model.get("default_feature")
    if default is None or default.ndim != 1:
        raise CheckpointError(f"{source}: the model has no weight default_feature of shape (C,)")
    channels = default.shape[0]
    for frame, cloud in enumerate(checkpoint.points):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or not cloud.is_floating_point():
            raise CheckpointError(f"{source}: the points of frame {frame} are {_shape(cloud)}; they must be "
                                  "(N, 3) float32")
        features = checkpoint.model.get(f"features.{frame}")
        if features is None or tuple(features.shape) != (len(cloud), channels):
            found = "missing" if features is None else _shape(features)
            raise CheckpointError(f"{source}: the weight features.{frame} is {found}; the frame's points "
                                  f"need ({len(cloud)}, {channels})")
    if checkpoint.colors and [c.shape for c in checkpoint.colors] != [p.shape for p in checkpoint.points]:
        colors, points = (", ".join(map(_shape, list_)) for list_ in (checkpoint.colors, checkpoint.points))
        raise CheckpointError(f"{source}: the colors ({colors}) do not match the points ({points})")


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
