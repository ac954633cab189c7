# SPDX-License-Identifier: Apache-2.0
"""Scenes as NHR and ConvNeRF publish them, and this project's own: several frames, numbered from 0 or from 1.

    CamPose.inf, Intrinsic.inf       one camera's poses for all frames
    img/FRAME/img_0000.jpg           photographs; mattes beside them as img_0000_alpha.png, or in FRAME/mask,
                                     or in img/FRAME/mask
    pointclouds/frame1.obj           a cloud for each frame
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from npcr.data.scene import find_clouds, find_mattes, find_photographs, frame_names
from npcr.errors import SceneError
from npcr.importers.base import Capture, Importer, Option, View
from npcr.importers.lenses import Lens
from npcr.io.camera_files import read_cam_poses, read_intrinsics
from npcr.io.images import inspect_image


class NhrImporter(Importer):
    """The layouts of NHR and ConvNeRF."""

    name = "nhr"
    summary = "layouts of NHR and ConvNeRF"
    description = """\
The layout of NHR and ConvNeRF, or NPCR's own: CamPose.inf, Intrinsic.inf, img/FRAME/img_0000.jpg numbered from 0 or
1, mattes as img_0000_alpha.png or mask/img_0000.jpg, pointclouds/frame1.obj; several frames.
"""
    options = (Option("frames", "use the first N frames (default: all)", int, metavar="N"),)

    def read(self, source: Path, **options: Any) -> Capture:
        return read_nhr(source, **options)


def read_nhr(source: str | Path, *, frames: int | None = None) -> Capture:
    """Read a folder in the layout of NHR.

    Args:
        source: the folder.
        frames: use the first so many; None: all.

    Returns:
        Every frame's photographs, in the order of the cameras, and the frames' clouds.

    Raises:
        SceneError: a camera, photograph or cloud is missing or malformed.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder")
    count = _count_frames(folder) if frames is None else frames
    if count < 1:
        raise SceneError(f"--frames is {count}; it must be at least 1")
    poses = read_cam_poses(folder / "CamPose.inf")
    matrices = read_intrinsics(folder / "Intrinsic.inf")
    if len(matrices) not in (1, len(poses)):
        raise SceneError(f"{folder / 'Intrinsic.inf'}: has {len(matrices)} blocks for the {len(poses)} cameras of "
                         f"{folder / 'CamPose.inf'}; one serves all, or each needs its own")
    views = []
    for frame, name in enumerate(frame_names(folder, count)):
        images = find_photographs(folder / "img" / name, len(poses), folder / "CamPose.inf")
        mattes = find_mattes(folder, name, images)
        for number, (image, matte) in enumerate(zip(images.values(), mattes, strict=True)):
            matrix = matrices[number if len(matrices) > 1 else 0]
            lens = Lens((matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), inspect_image(image)[0],
                        skew=float(matrix[0, 1]))
            views.append(View(f"img/{name}/{image.name}", image, matte, poses[number], lens, frame=frame))
    clouds = find_clouds(folder, count) if (folder / "pointclouds").is_dir() else []
    return Capture(folder, views, clouds=list(clouds))


def _count_frames(folder: Path) -> int:
    place = folder / "img"
    names = [path.name for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
    return max(1, sum(name.isdecimal() for name in names))
