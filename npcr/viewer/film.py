# SPDX-License-Identifier: Apache-2.0
"""Rendering a path to files while browsers go on looking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from yacs.config import CfgNode

from npcr.config import changed, dump_config
from npcr.errors import NpcrError
from npcr.factory import build_blender
from npcr.io.camera_path_files import CameraPath
from npcr.rendering.frame_writer import build_writer
from npcr.rendering.frames import render_path
from npcr.rendering.path_inputs import frames_of_times
from npcr.viewer.pictures import Engine

_LOOK = 0.1  # seconds between looks at whether a path has ended


class Film:
    """Renders paths with the files of `npcr render`, one path at a time.

    Args:
        engine: renders; browsers get their frames between those of the film.
        cfg: the configuration, whose RENDER and TEMPORAL sections hold here as well.
    """

    def __init__(self, engine: Engine, cfg: CfgNode) -> None:
        self._engine = engine
        self._cfg = cfg
        self._busy = threading.Lock()
        self._cancelled = threading.Event()

    def cancel(self) -> bool:
        """Let the path in work end after its frame; returns whether there is one."""
        self._cancelled.set()
        return self._busy.locked()

    def close(self) -> None:
        """Let the path in work end after its frame, wait until its files are whole, and refuse all others."""
        while not self._busy.acquire(timeout=_LOOK):
            self._cancelled.set()  # again and again: one that is just beginning forgets it

    def render(self, path: CameraPath, folder: Path, progress: Callable[[int, int], None]) -> int:
        """Render a path.

        Args:
            path: the cameras, and the times that choose the scene's frames.
            folder: for the files.
            progress: called with the frames that are done, and all.

        Returns:
            Frames that were written: all, or fewer after `cancel`.

        Raises:
            NpcrError: another path is in work, a file cannot be written, or the model is in training that is not
                paused.
        """
        self._refuse_changes(0)
        if not self._busy.acquire(blocking=False):
            raise NpcrError("another path is being rendered; wait for it, or cancel it")
        try:
            self._cancelled.clear()
            return self._render(path, folder, progress)
        finally:
            self._busy.release()

    def _render(self, path: CameraPath, folder: Path, progress: Callable[[int, int], None]) -> int:
        cfg = changed(self._cfg, INPUT__SIZE_TEST=list(path.cameras.size), RENDER__FPS=float(path.fps))
        dump_config(cfg, folder / "config.yml")
        renderer = self._engine.renderer
        frame = frames_of_times(path.times, renderer.frames) if path.times is not None else 0
        frames = render_path(renderer, path.cameras, gray=cfg.BACKGROUND_GRAY / 255, blender=build_blender(cfg),
                             frame=frame, raw=cfg.RENDER.RAW, floats=cfg.RENDER.EXR != "off")
        with build_writer(cfg, folder) as writer:
            while not self._cancelled.is_set():
                self._refuse_changes(writer.count)
                with self._engine.lock:
                    pixels = next(frames, None)
                if pixels is None:
                    break
                writer.write(pixels)
                progress(writer.count, len(path.cameras))
        return writer.count

    def _refuse_changes(self, done: int) -> None:
        if self._engine.changing:
            raise NpcrError("the model is in training: pause this while a path is rendered, so that all frames are of "
                            f"one model ({done} frames are written)")
