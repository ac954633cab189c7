# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio, instant-ngp and NeRF-synthetic: cameras, photographs, mattes, cloud.

The file's camera axes are OpenGL's (x right, y up, z back) and become OpenCV's. Its principal point is measured from
the outer corner of the first pixel (as in nerfstudio and COLMAP); in this project pixel centers are whole numbers, so
half a pixel is subtracted. `pixel_origin="center"` leaves it as it is, for files whose numbers came from a calibration
that already measures from pixel centers (OpenCV's, Bouguet's toolbox).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES, Capture, Importer, Option, View
from npcr.importers.masks import mask_folders
from npcr.importers.transforms.files import FileFinder
from npcr.importers.transforms.lens import read_lens
from npcr.importers.transforms.poses import Motion, check_views, read_pose
from npcr.importers.transforms.splits import split_frames
from npcr.importers.transforms.values import (
    TOP_LEVEL,
    FrameValues,
    Remarks,
    note_unused,
    shown,
    with_coefficients,
    with_known_keys,
)
from npcr.io.image_files import read_header
from npcr.io.json_files import read_json

logger = logging.getLogger("npcr")

_SPLITS = ("train", "val", "test")


class TransformsImporter(Importer):
    """transforms.json of nerfstudio, instant-ngp and NeRF-synthetic."""

    name = "transforms"
    summary = "transforms.json (nerfstudio, instant-ngp, NeRF-synthetic)"
    description = """\
transforms.json of nerfstudio, instant-ngp or NeRF-synthetic: intrinsics for all or for each photograph (fl_x, fl_y,
cx, cy, w, h, or camera_angle_x in place of fl_x), lens distortion (undistorted here), RGBA photographs or mask_path,
ply_file_path. A folder's transforms_train, _val and _test.json keep their splits, and so do the lists train_filenames
and so on: the test views become the scene DESTINATION/test, which DATASETS.TEST names. Photographs that do not exist
are counted and left out.
"""
    options = (
        Option("pixel_origin", "what cx and cy count from: the outer corner of the first pixel, as nerfstudio and "
               "COLMAP do (default), or its center, as OpenCV's calibration does",
               default="corner", choices=("corner", "center")),
        Option("undo_applied_transform", "take the cameras back to before nerfstudio's applied_transform and "
               "applied_scale, to fit a cloud (--points) that was not moved with them, such as COLMAP's fused.ply",
               is_flag=True),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_transforms(source, **options)


def read_transforms(source: str | Path, *, pixel_origin: str = "corner",
                    undo_applied_transform: bool = False) -> Capture:
    """Read a transforms*.json.

    In a folder transforms.json is taken, else transforms_train.json with its siblings _val and _test, whose views
    keep that split; so do the entries of train_filenames, val_filenames, test_filenames. `transform_matrix` and the
    cloud of ply_file_path are in one coordinate frame already, which nerfstudio reached by `applied_transform` and
    `applied_scale`. What is guessed or not used is said in warnings.

    Args:
        source: the file, or a folder that has one.
        pixel_origin: what cx and cy are measured from: "corner" or "center" of the first pixel.
        undo_applied_transform: return the cameras as they were before `applied_transform` and `applied_scale`, for a
            cloud (--points) that was not moved with them; the file's own cloud is left out.

    Returns:
        The photographs that exist, in the file's order, and its cloud where it names one that exists.

    Raises:
        SceneError: something is malformed or contradicts itself (the message names file, frame, key and value), or no
            photograph to train on exists.
    """
    files = [_File.read(file, split, undo_applied_transform) for split, file in _find_files(Path(source)).items()]
    _check_coordinates(files, undo_applied_transform)
    views: list[View] = []
    missing: list[tuple[str, Path]] = []
    clouds: list[Path] = []
    cloud_remarks: list[str] = []
    for file in files:
        read, absent = file.views(pixel_origin, named=len(files) > 1)
        views += read
        missing += absent
        cloud, remark = file.cloud()
        clouds += [cloud] if cloud is not None else []
        cloud_remarks += [remark] if remark else []
    first = files[0].path
    _check_splits(first, views, missing)
    check_views(first, views)
    _note_masks(first, views)
    cloud_remarks += [f"{source}: the files of the splits name different clouds; {clouds[0]} is used, {other} is not"
                      for other in clouds[1:] if other.resolve() != clouds[0].resolve()]
    return Capture(first, views, [path for _, path in missing], list(clouds[:1]), cloud_remarks)


@dataclass(frozen=True)
class _File:
    """A transforms*.json: its frames, and its top level in `values`."""

    path: Path
    split: str  # of frames that its lists do not name
    values: dict[str, Any]
    frames: Sequence[Any]
    remarks: Remarks
    motion: Motion | None  # to be undone

    @classmethod
    def read(cls, path: Path, split: str, undo: bool) -> _File:
        remarks = Remarks(path)
        content = read_json(path, "transforms.json", "frames")
        values = with_coefficients(with_known_keys(content, TOP_LEVEL, remarks), str(path))
        frames = values.get("frames")
        if not isinstance(frames, list) or not frames:
            raise SceneError(f"{path}: needs a list 'frames' with an entry for each photograph")
        note_unused(values, TOP_LEVEL, remarks)
        motion = Motion(path, values) if undo else None
        if motion is not None and not motion.given:
            raise SceneError(f"{path}: --undo-applied-transform has nothing to undo: the file has neither "
                             "applied_transform nor applied_scale; leave the option out")
        return cls(path, split, values, frames, remarks, motion)

    def views(self, pixel_origin: str, named: bool) -> tuple[list[View], list[tuple[str, Path]]]:
        """Its views, and (split, photograph) of those that do not exist; messages name the file where `named`."""
        prefix = f"{self.path.name}, " if named else ""
        frames = [FrameValues(self.path, f"{prefix}frames[{number}]", entry, self.values, self.remarks)
                  for number, entry in enumerate(self.frames)]
        names = [frame.text("file_path") for frame in frames]
        splits = split_frames(self.path, self.values, names, self.split, self.remarks)
        finder = FileFinder(self.path, self.remarks)
        views: list[View] = []
        missing: list[tuple[str, Path]] = []
        for frame, name, split in zip(frames, names, splits, strict=True):
            pose = read_pose(frame)
            image = finder.find(name, f"{frame.label}: file_path", smaller=frame.get("w") is not None)
            mask = None
            if frame.entry.get("mask_path") is not None:
                mask = finder.find(frame.text("mask_path"), f"{frame.label}: mask_path", smaller=True)
            if not finder.has(image):
                missing.append((split, image))
                continue
            views.append(View(frame.label, image, mask, pose if self.motion is None else self.motion.undone(pose),
                              read_lens(frame, image, pixel_origin), split=split))
        times = {shown(frame.entry["time"]) for frame in frames if frame.entry.get("time") is not None}
        if len(times) > 1:
            self.remarks.add(f"frames are of {len(times)} different times; all are taken for one pose of the object",
                             TOP_LEVEL)
        self.remarks.say(len(frames))
        return views, missing

    def cloud(self) -> tuple[Path | None, str]:
        """The cloud that it names, and what there is to say where it is not used."""
        name = self.values.get("ply_file_path")
        if name is None:
            return None, ""
        if self.motion is not None:
            return None, (f"{self.path}: the cloud it names ({shown(name)}) is in the coordinates of its cameras "
                          "before --undo-applied-transform; it is left out, --points names another")
        if not isinstance(name, str) or not name or "\0" in name:
            raise SceneError(f"{self.path}: ply_file_path is {shown(name)}; the path of a point cloud is needed")
        remarks = Remarks(self.path)
        finder = FileFinder(self.path, remarks)
        path = finder.find(name, "ply_file_path")
        if not finder.has(path):
            return None, (f"{self.path}: ply_file_path is {name!r}, and there is no such file ({path}); --points names "
                          "a cloud")
        remarks.say()
        return path, ""


def _find_files(source: Path) -> dict[str, Path]:
    """{split: file}; the views of a single file are to train on, but for those that its lists hold out."""
    if not source.is_dir():
        return {"train": source}
    whole = source / "transforms.json"
    found = {split: file for split in _SPLITS if (file := source / f"transforms_{split}.json").is_file()}
    if whole.is_file():
        found = {"train": whole}
    elif "train" not in found:
        raise SceneError(f"{source}: has neither transforms.json nor transforms_train.json")
    others = sorted(file.name for file in source.glob("transforms*.json") if file not in found.values())
    if others:
        logger.warning("%s: of the files transforms*.json %s is read and %s not; name a file in place of the folder to "
                       "read another", source, ", ".join(file.name for file in found.values()), ", ".join(others))
    return found


def _check_coordinates(files: Sequence[_File], undo: bool) -> None:
    """Raise `SceneError` where nerfstudio moved the cameras of two files by different transforms."""
    for file in files[1:] if not undo else ():
        for key in ("applied_transform", "applied_scale"):
            first, other = files[0].values.get(key), file.values.get(key)
            if first != other:
                raise SceneError(f"{file.path}: {key} is {shown(other)}, but {shown(first)} in {files[0].path.name}: "
                                 "their cameras are in different coordinates; --undo-applied-transform takes both back")


def _check_splits(file: Path, views: Sequence[View], missing: Sequence[tuple[str, Path]]) -> None:
    """Raise `SceneError` where nothing is left to train on; say where nothing is left of another split."""
    count, left = len(views) + len(missing), {view.split for view in views}
    lost = {split: [path for other, path in missing if other == split] for split in _SPLITS if split not in left}
    if not views:
        raise SceneError(f"{file}: none of its {count} photographs exists, first {missing[0][1]}; put them there, or "
                         "correct file_path, which starts at the file's folder")
    if "train" not in left:
        raise SceneError(f"{file}: none of its {count} photographs is for training"
                         + (f" but {len(lost['train'])} that do not exist, first {lost['train'][0]}; put them there"
                            if lost["train"] else f": the first, {views[0].image}, is for {views[0].split}; take some "
                            "out of val_filenames and test_filenames"))
    for split, paths in lost.items():
        if paths:
            other = next((name for name in ("test", "val") if name in left), None)
            instead = (f"DATASETS.TEST names those for {other}" if other else
                       "in their place some of those to train on are held out (DATASETS.HOLDOUT_EVERY)")
            logger.warning("%s: none of the %d photographs for %s exists, first %s; %s. Put them there to keep the "
                           "split", file, len(paths), split, paths[0], instead)


def _note_masks(file: Path, views: Sequence[View]) -> None:
    """Say that a folder of mattes lies there which no frame names."""
    folder = next(iter(mask_folders(file.parent)), None)
    if folder is None or any(view.mask is not None or view.image.parent == folder for view in views):
        return
    pictures = sorted(path for path in folder.rglob("*") if path.suffix in IMAGE_SUFFIXES)
    if pictures and not read_header(views[0].image).alpha:
        logger.warning("%s: %d pictures in %s are not used, first %s; mattes are what the frames' mask_path names",
                       file, len(pictures), folder, pictures[0])
