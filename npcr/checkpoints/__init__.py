# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of trained models and of training states; published checkpoints are read too.

Nothing here ever runs code from a file.
"""

from __future__ import annotations

from pathlib import Path

from npcr.checkpoints.files import (
    ModelCheckpoint,
    check_readable,
    choose_model,
    find_epoch,
    load_training_state,
    model_path,
    optimizer_path,
    read_model,
    save_model,
    save_training_state,
    whole_epochs,
)
from npcr.checkpoints.published import is_published, read_published
from npcr.checkpoints.renderer_state import load_parameters, make_checkpoint

__all__ = ["ModelCheckpoint", "choose_model", "find_epoch", "is_published", "load_model", "load_parameters",
           "load_training_state", "make_checkpoint", "model_path", "optimizer_path", "read_published", "save_model",
           "save_training_state", "whole_epochs"]


def load_model(path: str | Path, norm: str = "instance") -> ModelCheckpoint:
    """Read a model, on the CPU: this project's or a published one.

    Args:
        path: the file.
        norm: MODEL.NORM; of a published model "batch" keeps the norms' running statistics too.

    Returns:
        The model.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind; the message says which.
    """
    path = Path(path)
    check_readable(path)
    if is_published(path):
        return read_published(path, "batch" if norm == "batch" else "instance")
    return read_model(path)
