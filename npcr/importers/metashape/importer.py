# SPDX-License-Identifier: Apache-2.0
"""cameras.xml of Agisoft Metashape (File, Export, Export Cameras).

Its axes are OpenCV's already and its poses camera-to-chunk; the transform of the chunk (or of the camera's component)
brings them to world space. Sensors, cameras and photographs are read in modules of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npcr.errors import SceneError
from npcr.importers.base import Capture, Importer, Option, View
from npcr.importers.masks import find_masks
from npcr.importers.metashape.cameras import MetashapeCamera, MetashapeChunk
from npcr.importers.metashape.document import read_chunk
from npcr.importers.metashape.photographs import PhotographFolder
from npcr.io.image_files import read_header

logger = logging.getLogger("npcr")


class MetashapeImporter(Importer):
    """Agisoft Metashape's export of cameras."""

    name = "metashape"
    summary = "Agisoft Metashape's cameras.xml"
    description = """\
Agisoft Metashape's cameras.xml (File, Export, Export Cameras): frame and fisheye sensors with distortion, affinity
and skew, which are undone here; rigs of several cameras. Photographs are found by their cameras' labels and groups.
Disabled and unaligned cameras are left out. The cloud is exported separately (--points), in local coordinates, so
that it fits the cameras.
"""
    options = (
        Option("images", "the photographs, searched through (default: images beside the file, else its folder)", Path,
               metavar="FOLDER"),
        Option("masks", "their mattes, as x.png or x.jpg.png", Path, metavar="FOLDER"),
        Option("chunk", "label of the chunk, where there are several (default: the first with a pose)",
               metavar="NAME"),
        Option("chunk_space", "keep the chunk's inner coordinates instead of applying its transform", is_flag=True),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_metashape(source, **options)


def read_metashape(source: str | Path, *, images: Path | None = None, masks: Path | None = None,
                   chunk: str | None = None, chunk_space: bool = False) -> Capture:
    """Read a cameras.xml; cameras that are disabled or not aligned are counted and left out.

    Args:
        source: the file.
        images: folder of the photographs, searched through; None: images/ beside the file, else the file's own folder.
        masks: folder of mattes, named as the photographs; None: there are none.
        chunk: label of the chunk; None: the first that has a pose.
        chunk_space: leave the poses as they are within the chunk instead of applying its transform.

    Returns:
        The photographs that exist, in the file's order; no cloud.

    Raises:
        SceneError: something is missing, malformed or not certain, or no camera is left.
    """
    file = Path(source)
    read = MetashapeChunk(read_chunk(file, chunk), file)
    poses = read.usable_poses(chunk_space)
    if not poses:
        raise SceneError(f"{file}: none of its {len(read.cameras)} cameras is enabled and aligned; align photographs "
                         "in Metashape, then export the cameras")
    cameras = [camera for camera in read.cameras if camera.id in poses]
    folder = images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)
    place = PhotographFolder(folder, masks)
    photographs = place.find(cameras, read.cameras, file)
    if not photographs:
        raise SceneError(f"{file}: has no camera that is enabled, aligned, and whose photograph is in {folder}; looked "
                         f"for {cameras[0].label!r} and {len(cameras) - 1} others, by name, with any suffix where the "
                         "label has none, in the folders that the label names, and not in folders of mattes; --images "
                         "names their folder")
    near = (folder.resolve().parent, file.parent) if folder != file.parent else ()
    if masks is None and (mattes := place.unused_mattes(list(photographs.values()), near)):
        logger.warning("%s: %d pictures that are mattes by their folders' names or their own are not used, first %s; "
                       "--masks names their folder, also where they lie beside the photographs", file, len(mattes),
                       mattes[0])
    _say_turned(file, cameras, photographs)
    found = [camera for camera in cameras if camera.id in photographs]
    paths = [photographs[camera.id] for camera in found]
    used: list[Path | None] = find_masks(masks, paths) if masks is not None else [None] * len(found)
    views = [View(camera.label, path, matte, poses[camera.id], read.sensor(camera).lens)
             for camera, path, matte in zip(found, paths, used, strict=True)]
    return Capture(file, views, [folder / camera.label for camera in cameras if camera.id not in photographs])


def _say_turned(file: Path, cameras: Sequence[MetashapeCamera], photographs: dict[str, Path]) -> None:
    """Warn of photographs that Metashape had with an EXIF orientation which they have no more.

    Its calibrations refer to the pixels as they were stored then.
    """
    turned = [photographs[camera.id] for camera in cameras if camera.id in photographs
              and (camera.element.findtext("orientation") or "1").strip() not in ("", "0", "1")
              and read_header(photographs[camera.id]).orientation == 1]
    if turned:
        logger.warning("%s: %d of %d photographs have lost the EXIF orientation that they had in Metashape, first %s; "
                       "their cameras fit only if their pixels were not turned", file, len(turned), len(photographs),
                       turned[0])
