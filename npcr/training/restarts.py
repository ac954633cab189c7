# SPDX-License-Identifier: Apache-2.0
"""Where a run goes on: as RESUME or --resume says, or, after a restart by torchrun, from what it wrote since.

A folder may hold files of an earlier run, which a restart must not take for its own. With --max-restarts the first
process therefore writes down which files were there when the run was launched, and when they were written.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from npcr import checkpoints, distributed
from npcr.errors import CheckpointError
from npcr.io.files import atomic_write, reraise_with_path

logger = logging.getLogger("npcr")

LAUNCH_FILE = "launch.json"  # in OUTPUT_DIR, or in the folder of a refining's log


# What a training state says of its run, in words.
_RUN = {"optimizer_name": "SOLVER.OPTIMIZER_NAME", "seed": "SOLVER.SEED", "jobs": "the list of training views",
        "steps_per_epoch": "the number of steps of an epoch, by another SOLVER.IMS_PER_BATCH,"}


def epoch_to_resume(cfg: CfgNode) -> int | None:
    """Choose the checkpoint to go on from; all processes must call this.

    Args:
        cfg: the configuration.

    Returns:
        The epoch; None: train from the beginning.

    Raises:
        CheckpointError: RESUME, and the checkpoint is not there.
        NpcrError: OUTPUT_DIR cannot be written.
    """
    epoch = _newest_since_launch(Path(cfg.OUTPUT_DIR)) if distributed.is_writer() else None
    epoch = distributed.from_writer(epoch)
    if epoch is not None:
        return epoch
    return checkpoints.find_epoch(cfg.OUTPUT_DIR, cfg.LOAD_EPOCH, resume=True) if cfg.RESUME else None


def there_at_launch(record: Path) -> dict[str, int] | None:
    """Tell what was there when torchrun began.

    Args:
        record: the file of `note_launch`.

    Returns:
        What was noted then; None at the first attempt of a launch, and where that did not come so far.
    """
    launch = _read(record) if distributed.restarts() else {}
    return launch["states"] if launch.get("id") == _launch_id() else None


def note_launch(record: Path, states: Mapping[str, int]) -> None:
    """Note what is there when a run begins, for its restarts; nothing without --max-restarts.

    Args:
        record: the file to write.
        states: by name, when each was written.

    Raises:
        NpcrError: the file cannot be written.
    """
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        with reraise_with_path(record), atomic_write(record, "w") as file:
            json.dump({"id": _launch_id(), "states": dict(states)}, file)


def _newest_since_launch(output: Path) -> int | None:
    """The newest whole checkpoint that was written since torchrun began; None at its first attempt, and without one."""
    states = {str(epoch): _written(output, epoch) for epoch in checkpoints.whole_epochs(output)}
    before = there_at_launch(output / LAUNCH_FILE)
    if before is None:
        note_launch(output / LAUNCH_FILE, states)
        return None
    new = [int(epoch) for epoch, written in states.items() if written != before.get(epoch)]
    logger.info("restart %d by torchrun: %s", distributed.restarts(),
                f"going on from epoch {new[-1]}" if new else "no checkpoint was written yet; beginning as before")
    return new[-1] if new else None


def _written(output: Path, epoch: int) -> int:
    """When a checkpoint was written, by its training state, which comes last."""
    return checkpoints.optimizer_path(output, epoch).stat().st_mtime_ns


def _launch_id() -> str:
    """What all attempts of one torchrun have in common: its --rdzv-id, or the process that starts ours."""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return given if given != "none" else f"{socket.gethostname()}:{os.getppid()}"


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("states"), dict) else {}


def refuse_other_run(state: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Compare the run that wrote a training state with this one.

    Args:
        state: as `npcr.checkpoints.load_training_state` reads it.
        now: the same of this run, of some of its entries.
        path: the state's file, for the message.

    Raises:
        CheckpointError: they differ; the message says in what.
    """
    for name, value in now.items():
        if state[name] != value:
            values = "" if isinstance(value, list) else f" ({state[name]} then, {value} now)"
            raise CheckpointError(f"{path}: cannot resume: {_RUN[name]} differs from the run that wrote it{values}")
