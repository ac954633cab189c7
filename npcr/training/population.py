# SPDX-License-Identifier: Apache-2.0
"""When training moves, leaves out, joins and removes splats (`npcr.renderers.population` says how)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.io.points import PointCloud
from npcr.progress import progress_bar
from npcr.renderers import SplatRenderer
from npcr.renderers.population import Dropping, Relocation

logger = logging.getLogger("npcr")

_SMOOTH_EVERY = 10  # steps: on a CPU smoothing takes a fifth to a third as long as a whole step


def relocation_at(cfg: CfgNode, step: int, progress: float) -> Relocation | None:
    """Return what moves after an optimizer step.

    Args:
        cfg: the configuration.
        step: steps done.
        progress: the share of the training that is over, 0 to 1.

    Returns:
        The relocation; None where nothing moves.
    """
    solver = cfg.SOLVER
    if not solver.RELOCATE_EVERY or step % solver.RELOCATE_EVERY or progress > solver.RELOCATE_UNTIL:
        return None
    return Relocation(solver.RELOCATE_BY, solver.RELOCATE_BELOW, (solver.SEED, step))


def prepare(renderer: SplatRenderer, cfg: CfgNode, step: int, position: int, progress: float) -> None:
    """Tell a renderer what an optimizer step does without for a photograph.

    Args:
        renderer: changed.
        cfg, step, position, progress: as in `dropping_at`.
    """
    renderer.dropping = dropping_at(cfg, step, position, progress)
    renderer.finishing = progress >= cfg.SOLVER.NETWORK_FROM


def learn_together(renderer: SplatRenderer, cfg: CfgNode, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Let splats learn together with their neighbors, where the configuration has it so.

    Args:
        renderer: whose gradients, of all processes, and colors are changed.
        cfg: the configuration.
        step: steps done before this one.
        optimizer: of the renderer.
    """
    if cfg.SOLVER.HARMONICS_CELL:
        renderer.share_gradients(cfg.SOLVER.HARMONICS_CELL, (cfg.SOLVER.SEED, step))
    if cfg.SOLVER.COLOR_DECAY and step % _SMOOTH_EVERY == 0:
        renderer.smooth_colors(optimizer, _SMOOTH_EVERY * cfg.SOLVER.COLOR_DECAY, (cfg.SOLVER.SEED, step))


def dropping_at(cfg: CfgNode, step: int, position: int, progress: float) -> Dropping | None:
    """Return what an optimizer step leaves out for a photograph.

    Args:
        cfg: the configuration.
        step: steps done before it.
        position: of the photograph in the step's batch, from 0.
        progress: the share of the training that is over, 0 to 1.

    Returns:
        The dropping; None where nothing is left out.
    """
    solver = cfg.SOLVER
    splats = solver.DROP_SPLATS * min(1.0, progress)
    if not splats and not solver.DROP_HARMONICS:
        return None
    return Dropping(splats, solver.DROP_CELL, solver.DROP_HARMONICS, (solver.SEED, step, position))


def prune(renderer: SplatRenderer, optimizer: torch.optim.Optimizer, clouds: Sequence[PointCloud],
          cameras: Callable[[int], Iterable[Cameras]], least: float) -> list[PointCloud]:
    """Remove the splats that hardly cover anything in the training photographs, and say how many.

    Args:
        renderer: changed.
        optimizer: changed with it.
        clouds: one for each frame, as the renderer was made from.
        cameras: gives those of a frame's training photographs.
        least: pixels that a splat covers in all of them together, below which it is removed.

    Returns:
        The clouds that the renderer has now: the splats that are left, where training has moved them.
    """
    kept = []
    for frame, cloud in enumerate(clouds):
        covered = torch.zeros(len(cloud), device=renderer.device)
        views = list(cameras(frame))
        for view in progress_bar(views, total=len(views), title=f"measuring splats of frame {frame + 1}", delay=2,
                                 leave=False):
            covered += renderer.coverage(view, frame)
        rows = (covered >= least).nonzero()[:, 0]
        if not len(rows):
            logger.warning("frame %d: none of %d splats covers SOLVER.PRUNE_BELOW %g pixels; none is removed",
                           frame + 1, len(cloud), least)
            kept.append(cloud)
            continue
        logger.info("frame %d: %d of %d splats are removed, which cover less than %g pixels of %d photographs",
                    frame + 1, len(cloud) - len(rows), len(cloud), least, len(views))
        colors = None if cloud.colors is None else np.asarray(cloud.colors)[rows.cpu().numpy()]
        kept.append(PointCloud(renderer.keep(optimizer, frame, rows), colors))
    return kept
