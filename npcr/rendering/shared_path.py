# SPDX-License-Identifier: Apache-2.0
"""A camera path rendered by several processes (torchrun), each a stretch of it; and what a stopped run left to do.

Finished frames are noted in a folder beside them, so that whoever renders the same path next, in any number of
processes, renders only the others. What needs all frames in order (videos, the legacy blend, the measures of a video)
the first process makes in the end, of what lies there without loss.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import npcr
from npcr import distributed
from npcr.config import to_dict
from npcr.errors import NpcrError
from npcr.factory import build_blender
from npcr.io.files import atomic_write, remove_leftovers, reraise_with_path
from npcr.io.images import read_image, write_image
from npcr.io.json_files import read_json, write_json
from npcr.io.video_formats import FORMATS
from npcr.progress import progress_bar
from npcr.renderers import RenderOutput
from npcr.rendering.frame_writer import WRITE_AHEAD, PathVideos, build_writer, frame_name
from npcr.rendering.frames import FramePixels, finish_frames, render_path, render_timed
from npcr.rendering.path_inputs import PathInputs

logger = logging.getLogger("npcr")

# Processes that are done wait for the others, whose frames may take long; one that dies is noticed at once.
WAIT = 24 * 3600.0  # seconds
FOLDER = ".unfinished"
_KEPT = ("color", "alpha", "depth", "legacy_color")  # of a frame that is blended or measured later


class UnfinishedPath:
    """Which frames of a path are finished, noted in `.unfinished` in the folder of its results.

    Args:
        output: that folder.
        inputs: what is rendered.
        keep: whether to keep frames as numbers, to be measured later.
    """

    def __init__(self, output: Path, inputs: PathInputs, *, keep: bool = False) -> None:
        self.folder = output / FOLDER
        self.inputs = inputs
        self.of_what = f"{fingerprint(inputs)}{' as numbers' if keep else ''}"
        blender = build_blender(inputs.cfg)
        self.blend_later = blender is not None and blender.reach is None
        self._with_pictures = any(not FORMATS[name].alpha for name in inputs.cfg.RENDER.VIDEO)

    def begin(self) -> None:
        """Make the folder; start anew where it is of another rendering."""
        if self.folder.exists():
            if self.is_of_this():
                remove_leftovers(self.folder)
                logger.info("%s: going on; %d of %d frames are finished", self.folder.parent,
                            len(self.inputs.cameras) - len(self.missing()), len(self.inputs.cameras))
                return
            logger.warning("%s: the unfinished frames there are of another model, path or configuration; all frames "
                           "are rendered anew", self.folder.parent)
            shutil.rmtree(self.folder)
        write_json(self.folder / "path.json", {"rendering": self.of_what})

    def is_of_this(self) -> bool:
        """Tell whether an earlier run left frames of this same rendering."""
        try:
            found = read_json(self.folder / "path.json", "a list of finished frames", "rendering")
        except NpcrError:
            return False
        return bool(found.get("rendering") == self.of_what)

    def missing(self) -> list[int]:
        """The numbers of the frames that are not finished, from 1."""
        return [number for number in range(1, len(self.inputs.cameras) + 1) if not self._mark(number).exists()]

    def note(self, number: int, frame: FramePixels) -> None:
        """Note that the images of a frame are on disk, and keep its picture where a video needs it."""
        if self._with_pictures:
            path = self._picture(number)
            with reraise_with_path(path):
                write_image(path, frame.picture)
        self._mark(number).touch()

    def note_output(self, number: int, output: RenderOutput, seconds: float) -> None:
        """Keep a frame that is to be blended or measured later, and how long it took to render."""
        path = self._numbers(number)
        numbers = {name: value.cpu().numpy() for name in _KEPT if (value := getattr(output, name)) is not None}
        with reraise_with_path(path), atomic_write(path) as file:
            np.savez(file, seconds=seconds, **numbers)
        self._mark(number).touch()

    def outputs(self, device: torch.device) -> Iterator[tuple[RenderOutput, float]]:
        """The frames that `note_output` kept, in order, without their layers; and the seconds of each."""
        for number in range(1, len(self.inputs.cameras) + 1):
            with np.load(self._numbers(number)) as stored:
                kept = {name: torch.from_numpy(stored[name]).to(device) for name in _KEPT if name in stored.files}
                seconds = float(stored["seconds"])
            none = kept["depth"].new_empty(1, 0, *kept["depth"].shape[1:])
            yield RenderOutput(**kept, layer_rgba=none[:, :, None], layer_depth=none), seconds

    def pictures(self) -> Iterator[FramePixels]:
        """The frames that are finished, in order, as bytes."""
        for number in range(1, len(self.inputs.cameras) + 1):
            rgba = read_image(self.folder.parent / "rgba" / f"{frame_name(number)}.png")
            picture = read_image(self._picture(number)) if self._with_pictures else rgba[..., :3]
            yield FramePixels(picture, rgba)

    def remove(self) -> None:
        """Forget what was noted: all is finished."""
        shutil.rmtree(self.folder)

    def _mark(self, number: int) -> Path:
        return self.folder / f"{frame_name(number)}.done"

    def _picture(self, number: int) -> Path:
        return self.folder / f"{frame_name(number)}.png"

    def _numbers(self, number: int) -> Path:
        return self.folder / f"{frame_name(number)}.npz"


def fingerprint(inputs: PathInputs) -> str:
    """Identify what is rendered: two renderings of the same fingerprint have the same frames.

    Args:
        inputs: a model and a path.

    Returns:
        A digest of model, path, configuration and version.
    """
    described = {"npcr": npcr.__version__, "config": to_dict(inputs.cfg), "frames": inputs.frames,
                 "size": inputs.cameras.size}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for tensor in (inputs.cameras.cam_to_world, inputs.cameras.intrinsics):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    with inputs.checkpoint.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def runs(numbers: list[int]) -> Iterator[range]:
    """Find the runs of numbers that follow each other.

    Args:
        numbers: ascending.

    Yields:
        The runs.
    """
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            yield range(numbers[start], numbers[end - 1] + 1)
            start = end


def render_shared(inputs: PathInputs, output: Path) -> int:
    """Render a path in as many processes as there are; frames that an earlier run finished stay. All must call this.

    Frames are, to the last bit on a CPU, those that one process renders: each process also renders, but does not write,
    the neighbors that the blend of its frames needs.

    Args:
        inputs: a model and a path.
        output: the folder of the results.

    Returns:
        How many frames this process rendered and wrote.

    Raises:
        NpcrError: the processes were not started alike, or a file cannot be written.
        LostProcessError: another process has ended.
    """
    unfinished = UnfinishedPath(output, inputs)
    mine = _begin(unfinished)
    if distributed.is_writer():
        build_writer(inputs.cfg, output, videos=False).__exit__(None, None, None)  # makes folders, removes leftovers
    distributed.barrier()
    written = _keep_outputs(unfinished, mine) if unfinished.blend_later else _write_stretch(unfinished, mine, output)
    distributed.barrier()
    if distributed.is_writer():
        if unfinished.blend_later:
            _blend_all(unfinished, output)
        else:
            _write_videos(unfinished, output)
        unfinished.remove()
    distributed.barrier()
    return written


@contextmanager
def shared_outputs(inputs: PathInputs, output: Path) -> Iterator[Iterator[tuple[RenderOutput, float]]]:
    """Render a path in as many processes as there are, for the first one to go through within the block.

    Frames are those of one process, to the last bit on a CPU. They lie in the folder until the block has ended without
    an error: frames that an earlier run finished stay. All processes must enter.

    Args:
        inputs: a model and a path.
        output: the folder of the results.

    Yields:
        In the first process all frames in order, and the seconds that each took to render; nothing in the others.

    Raises:
        NpcrError: the processes were not started alike, or a file cannot be written.
        LostProcessError: another process has ended.
    """
    unfinished = UnfinishedPath(output, inputs, keep=True)
    mine = _begin(unfinished)
    try:
        _keep_outputs(unfinished, mine)
        distributed.barrier()
        yield unfinished.outputs(inputs.renderer.device) if distributed.is_writer() else iter(())
    except BaseException:  # Ctrl-C, a full disk, a process that is gone
        logger.info("%s: %d of %d frames are rendered and kept; the same command goes on with them", output,
                    len(inputs.cameras) - len(unfinished.missing()), len(inputs.cameras))
        raise
    if distributed.is_writer():
        unfinished.remove()
    distributed.barrier()


def _begin(unfinished: UnfinishedPath) -> list[int]:
    """The numbers of the frames that this process is to render."""
    distributed.refuse_differences({"what is rendered (model, path, configuration)": unfinished.of_what})
    if distributed.is_writer():
        unfinished.begin()
    return distributed.stretch(distributed.from_writer(unfinished.missing() if distributed.is_writer() else []))


def _bar(count: int) -> Any:
    processes = distributed.world_size()
    title = "render" if processes == 1 else f"render (process 0 of {processes})"
    return progress_bar(total=count, title=title, unit="frame", hidden=not distributed.is_writer())


def _write_stretch(unfinished: UnfinishedPath, mine: list[int], output: Path) -> int:
    inputs = unfinished.inputs
    blender = build_blender(inputs.cfg)
    reach = 0 if blender is None else blender.reach or 0
    with (build_writer(inputs.cfg, output, videos=False, tidy=False, on_written=unfinished.note) as writer,
          _bar(len(mine)) as bar):
        for numbers in runs(mine):
            first = max(0, numbers.start - 1 - reach)
            around = slice(first, min(len(inputs.cameras), numbers.stop - 1 + reach))
            frames = render_path(inputs.renderer, inputs.cameras[around], gray=inputs.cfg.BACKGROUND_GRAY / 255,
                                 blender=blender, frame=inputs.frames[around], raw=inputs.cfg.RENDER.RAW,
                                 floats=inputs.cfg.RENDER.EXR != "off")
            for number, frame in enumerate(frames, first + 1):
                if number in numbers:
                    writer.write(frame, number)
                    bar.update()
    return writer.count


def _keep_outputs(unfinished: UnfinishedPath, mine: list[int]) -> int:
    inputs = unfinished.inputs
    with _bar(len(mine)) as bar:
        for numbers in runs(mine):
            part = slice(numbers.start - 1, numbers.stop - 1)
            rendered = render_timed(inputs.renderer, inputs.cameras[part], inputs.frames[part])
            for number, (output, seconds) in zip(numbers, rendered, strict=True):
                unfinished.note_output(number, output, seconds)
                bar.update()
    return len(mine)


def _blend_all(unfinished: UnfinishedPath, output: Path) -> None:
    inputs, device = unfinished.inputs, unfinished.inputs.renderer.device
    outputs = (output for output, _ in unfinished.outputs(device))
    frames = finish_frames(outputs, inputs.cameras, device, gray=inputs.cfg.BACKGROUND_GRAY / 255,
                           blender=build_blender(inputs.cfg), raw=inputs.cfg.RENDER.RAW,
                           floats=inputs.cfg.RENDER.EXR != "off")
    with build_writer(inputs.cfg, output, tidy=False) as writer:
        for frame in progress_bar(frames, total=len(inputs.cameras), title="blend", unit="frame"):
            writer.write(frame)


def _write_videos(unfinished: UnfinishedPath, output: Path) -> None:
    render = unfinished.inputs.cfg.RENDER
    if not render.VIDEO:
        return
    videos = PathVideos(output, render.FPS, render.VIDEO)
    pending: deque[list[Future[None]]] = deque()
    frames = progress_bar(unfinished.pictures(), total=len(unfinished.inputs.cameras), title="video", unit="frame")
    try:
        for frame in frames:
            if len(pending) >= WRITE_AHEAD:
                for future in pending.popleft():
                    future.result()
            pending.append(videos.write(frame.picture, frame.rgba))
    finally:
        unwritten = videos.close()
    if unwritten:
        raise unwritten[0]
