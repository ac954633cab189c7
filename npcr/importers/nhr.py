# SPDX-License-Identifier: Apache-2.0
"""Scenes as NHR and ConvNeRF publish them, and this project's own: several frames, numbered from 0 or from 1.

    CamPose.inf, Intrinsic.inf       one camera's poses for all frames
    img/FRAME/img_0000.jpg           photographs; mattes beside them as img_0000_alpha.png, or in FRAME/mask,
                                     or in img/FRAME/mask
    pointclouds/frame1.obj           a cloud for each frame
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.data.scene_files import (
    find_clouds,
    find_mattes,
    find_photographs,
    frame_folders,
    warn_of_unused_mattes,
)
from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES, Capture, Importer, Option, View
from npcr.importers.lenses import Lens
from npcr.io.camera_files import read_cam_poses, read_intrinsics
from npcr.io.images import inspect_image

logger = logging.getLogger("npcr")

_OTHER_SIZE = 0.25  # by which principal points lie off the middle, all to the same side, where K is of another size


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
    if frames is not None and frames < 1:
        raise SceneError(f"--frames is {frames}; it must be at least 1")
    names = _frame_names(folder, frames)
    poses = read_cam_poses(folder / "CamPose.inf")
    matrices = read_intrinsics(folder / "Intrinsic.inf")
    if len(matrices) not in (1, len(poses)):
        raise SceneError(f"{folder / 'Intrinsic.inf'}: has {len(matrices)} blocks for the {len(poses)} cameras of "
                         f"{folder / 'CamPose.inf'}; one serves all, or each needs its own")
    views = []
    for frame, name in enumerate(names):
        images = find_photographs(folder / "img" / name, len(poses), folder / "CamPose.inf")
        mattes = find_mattes(folder, name, images)
        _check_mattes(folder, name, list(images.values()), mattes)
        for number, (image, matte) in enumerate(zip(images.values(), mattes, strict=True)):
            matrix = matrices[number if len(matrices) > 1 else 0]
            lens = Lens((matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), None,
                        skew=float(matrix[0, 1]))
            views.append(View(f"img/{name}/{image.name}", image, matte, poses[number], lens, frame=frame))
    _check_sizes(folder / "Intrinsic.inf", views, len(poses), matrices)
    clouds = find_clouds(folder, len(names)) if (folder / "pointclouds").is_dir() else []
    return Capture(folder, views, clouds=list(clouds))


def _frame_names(folder: Path, wanted: int | None) -> list[str]:
    """The folders of the first frames, of all of them where None are `wanted`."""
    folders = frame_folders(folder)
    if not folders:
        raise SceneError(f"{folder / 'img'}: has no folder of a frame; photographs belong in {folder / 'img' / '0'} "
                         "(img_0001.jpg)")
    first = 0 if 0 in folders else 1
    last = max(folders) if wanted is None else first + wanted - 1
    gap = next((number for number in range(first, last + 1) if number not in folders), None)
    if gap is not None:
        needed = "--frames takes those before a gap" if wanted is None else f"--frames {wanted} needs {first} to {last}"
        raise SceneError(f"{folder / 'img'}: has no folder {gap}; frames are numbered from 0 or 1, and {needed}")
    return [folders[number].name for number in range(first, last + 1)]


def _check_mattes(folder: Path, name: str, images: Sequence[Path], mattes: Sequence[Path | None]) -> None:
    """Warn of a frame's mattes that no photograph gets; raise where photographs lack one, since numbers may differ."""
    beside = [path for path in sorted((folder / "img" / name).iterdir()) if path.stem.lower().endswith("_alpha")]
    within = [path for place in (folder / name / "mask", folder / "img" / name / "mask") if place.is_dir()
              for path in sorted(place.iterdir())]
    found = [path for path in beside + within if path.suffix in IMAGE_SUFFIXES]
    unused = [path for path in found if path not in mattes]
    lacking = [image for image, matte in zip(images, mattes, strict=True) if matte is None]
    if unused and lacking:
        raise SceneError(f"{unused[0]}: is the matte of no photograph, and {lacking[0]} has none ({len(unused)} of "
                         f"{len(found)} mattes, {len(lacking)} of {len(images)} photographs); a matte has the number "
                         "of its photograph, as img_0001_alpha.png or mask/img_0001.png")
    warn_of_unused_mattes(folder, name, mattes)


def _check_sizes(file: Path, views: Sequence[View], cameras: int, matrices: NDArray[np.float64]) -> None:
    """Raise where one K serves photographs of several sizes; warn where it seems to be of another size than theirs."""
    sizes = [inspect_image(view.image)[0] for view in views]
    for number, (view, size) in enumerate(zip(views, sizes, strict=True)):
        same_block = number % cameras if len(matrices) > 1 else 0
        if size != sizes[same_block]:
            raise SceneError(f"{view.image}: is {size[0]}x{size[1]}, {views[same_block].image} is "
                             f"{sizes[same_block][0]}x{sizes[same_block][1]}; the same block of {file} serves both, so "
                             "they must be of one size")
    centers = np.broadcast_to(matrices[:, :2, 2], (cameras, 2))
    shares = np.median((2 * centers + 1) / np.array(sizes[:cameras]), axis=0)
    if np.abs(np.log(shares)).min() > np.log1p(_OTHER_SIZE) and abs(np.log(shares[0] / shares[1])) < _OTHER_SIZE:
        width, height = np.rint(np.median(2 * centers + 1, axis=0))
        logger.warning("%s: principal points lie as in photographs of about %dx%d, but these are %dx%d (first %s); K "
                       "must be of the size of the photographs", file, width, height, *sizes[0], views[0].image)
