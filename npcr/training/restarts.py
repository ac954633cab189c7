# SPDX-License-Identifier: Apache-2.0
"""Where a training goes on: as RESUME says, or, after a restart by torchrun, from the newest whole checkpoint.

A folder may hold checkpoints of an earlier training, which a restart must not take for its own. With --max-restarts the
first process therefore writes down which files were there when the training was launched.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path

from yacs.config import CfgNode

from npcr import checkpoints, distributed
from npcr.io.files import atomic_write, reraise_with_path

logger = logging.getLogger("npcr")

LAUNCH_FILE = "launch.json"  # in OUTPUT_DIR


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


def _newest_since_launch(output: Path) -> int | None:
    """The newest whole checkpoint that was written since torchrun began; None at its first attempt, and without one."""
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    launch = _read(output / LAUNCH_FILE)
    if distributed.restarts() == 0 or launch.get("id") != _launch_id():
        there = {str(epoch): _written(output, epoch) for epoch in checkpoints.whole_epochs(output)}
        with reraise_with_path(output / LAUNCH_FILE), atomic_write(output / LAUNCH_FILE, "w") as file:
            json.dump({"id": _launch_id(), "states": there}, file)
        return None
    new = [epoch for epoch in checkpoints.whole_epochs(output)
           if _written(output, epoch) != launch["states"].get(str(epoch))]
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
