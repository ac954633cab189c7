# SPDX-License-Identifier: Apache-2.0
"""Camera paths as a person makes them in the viewer: keyframes that are set, replaced, timed, saved and loaded."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from npcr.camera_spline import Keyframe, PathFrame, duration, interpolate, sample_path
from npcr.errors import NpcrError
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.camera_path_files import CameraPath, make_cameras, read_camera_path, write_camera_path
from npcr.viewer.poses import look_at_distance

Array = NDArray[np.float64]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class PathEditor:
    """The keyframes of one browser.

    Args:
        center: (3,) of the scene, at whose distance a keyframe looks.
        size: (width, height) of the path's pictures.
        raw_size: (width, height) that Intrinsic.inf is for: INPUT.SIZE_RAW.
        fps: frames a second.
    """

    def __init__(self, center: Array, size: tuple[int, int], raw_size: tuple[int, int], fps: float) -> None:
        self.center = center
        self.size = size
        self.raw_size = raw_size
        self.fps = fps
        self.loop = False
        self.keyframes: list[Keyframe] = []

    @property
    def seconds(self) -> float:
        """How long the path takes."""
        return duration(self.keyframes, self.loop)

    def keyframe(self, pose: Array, fov: float, seconds: float = 2.0, time: float = 0.0) -> Keyframe:
        """Make a keyframe of a camera; `put` adds it."""
        return Keyframe(pose, fov, look_at_distance(pose, self.center), seconds, time)

    def put(self, keyframe: Keyframe, place: int | None = None) -> None:
        """Append a keyframe, or replace the one at a place from 0."""
        if place is None:
            self.keyframes.append(keyframe)
        else:
            self.keyframes[place] = keyframe

    def at(self, seconds: float) -> PathFrame:
        """The path's camera at a moment.

        Raises:
            NpcrError: there is no keyframe.
        """
        return interpolate(self.keyframes, np.array([seconds]), self.loop)[0]

    def path(self) -> CameraPath:
        """The whole path.

        Raises:
            NpcrError: there is no keyframe.
        """
        frames = sample_path(self.keyframes, self.fps, self.loop)
        cameras = make_cameras([frame.cam_to_world for frame in frames], [frame.fov for frame in frames], self.size)
        return CameraPath(cameras, self.fps, np.array([frame.time for frame in frames]), tuple(self.keyframes),
                          self.loop)

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write the path as nerfstudio's JSON, and as CamPose.inf and Intrinsic.inf.

        Args:
            folder: where to.
            name: of a folder in it for these files.

        Returns:
            The files.

        Raises:
            NpcrError: there is no keyframe, or the name would lead elsewhere.
        """
        path, place = self.path(), folder / checked_name(name)
        files = [place / "path.json", place / "CamPose.inf", place / "Intrinsic.inf"]
        write_camera_path(files[0], path)
        write_cam_poses(files[1], path.cameras.cam_to_world)
        write_intrinsics(files[2], path.cameras.resized(self.raw_size).intrinsics)
        return files

    def load(self, file: Path) -> None:
        """Take the keyframes of a JSON; of one without, its cameras, up to twenty.

        Args:
            file: as `save` or nerfstudio's viewer wrote it.

        Raises:
            NpcrError: it is no camera path.
        """
        path = read_camera_path(file)
        keyframes = list(path.keyframes) or self._thinned(path)
        self.keyframes = [one if one.distance != 1.0 else  # nerfstudio's keyframes do not tell
                          dataclasses.replace(one, distance=look_at_distance(one.cam_to_world, self.center))
                          for one in keyframes]
        self.size, self.fps, self.loop = path.cameras.size, path.fps, path.loop

    def _thinned(self, path: CameraPath) -> list[Keyframe]:
        count = len(path.cameras)
        chosen = np.unique(np.linspace(0, count - 1, min(count, 20)).round().astype(int))
        steps = np.diff(chosen, prepend=chosen[0]) / path.fps
        focal = path.cameras.intrinsics[:, 1, 1].double()
        fovs = torch.rad2deg(2 * torch.atan(path.cameras.size[1] / 2 / focal)).numpy()
        poses = path.cameras.cam_to_world.double().numpy()
        return [self.keyframe(poses[i], float(fovs[i]), float(step) or 2.0,
                              0.0 if path.times is None else float(path.times[i]))
                for i, step in zip(chosen, steps, strict=True)]


def checked_name(name: str) -> str:
    """Refuse a name that is none of a file within its folder: browsers send it.

    Args:
        name: as a person typed it.

    Returns:
        The same.

    Raises:
        NpcrError: other characters than letters, digits, - _ . are in it.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise NpcrError(f"the name {name[:40]!r} may have letters, digits, -, _ and . alone, 80 at most")
    return name
