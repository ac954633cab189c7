# SPDX-License-Identifier: Apache-2.0
"""Finding the files of a scene's folder by their numbers: frames, photographs, mattes, point clouds.

What has no number, or is not used, gives a warning of the logger "npcr"; what is missing or there twice, an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from npcr.errors import SceneError
from npcr.io.points import SUFFIXES as CLOUD_SUFFIXES

logger = logging.getLogger("npcr")

_PHOTOGRAPH = re.compile(r"img_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_MATTE = re.compile(r"img_(\d+)_alpha\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(r"img_(\d+)(?:_alpha)?\.(?:jpe?g|png)", re.IGNORECASE)  # within a folder mask/
_FRAME = re.compile(r"(\d+)")
_CLOUD = re.compile(rf"frame(\d+)(?:{'|'.join(re.escape(suffix) for suffix in CLOUD_SUFFIXES)})", re.IGNORECASE)


def existing_folder(folder: str | Path) -> Path:
    """Check that a scene's folder is there.

    Args:
        folder: of the scene.

    Returns:
        The folder.

    Raises:
        SceneError: there is none, or the name is empty.
    """
    if not str(folder):
        raise SceneError("DATASETS.TRAIN is empty; it names the scene's folder")
    if not Path(folder).is_dir():
        raise SceneError(f"{folder}: no such scene folder")
    return Path(folder)


def frame_folders(folder: Path) -> dict[int, Path]:
    """Find the folders under img/ of all frames; warn of what else is there.

    Args:
        folder: of the scene.

    Returns:
        {number: folder}.

    Raises:
        SceneError: there is no img/, or two folders have one number.
    """
    image_folder = folder / "img"
    if not image_folder.is_dir():
        raise SceneError(f"{image_folder}: no such folder; photographs belong in img/0/img_0001.jpg and so on")
    frames = _numbered(image_folder, _FRAME, folders=True)
    others = sorted(path.name for path in image_folder.iterdir() if path not in frames.values())
    if frames and others:
        logger.warning("%s: %d of %d entries are passed over, first %s; expected are folders 0, 1 and so on",
                       image_folder, len(others), len(others) + len(frames), others[0])
    return frames


def frame_names(folder: Path, frame_num: int) -> list[str]:
    """List the folders under img/ of the first frames, which are numbered from 0 or 1.

    Args:
        folder: of the scene.
        frame_num: number of frames.

    Returns:
        The folders' names.

    Raises:
        SceneError: a folder is missing, or two have one number.
    """
    names = frame_folders(folder)
    first = 0 if 0 in names else 1
    for number in range(first, first + frame_num):
        if number not in names:
            raise SceneError(f"{folder / 'img' / str(number)}: no such frame folder; DATASETS.FRAME_NUM {frame_num} "
                             f"needs {first} to {first + frame_num - 1}")
    if len(names) > frame_num:
        logger.warning("%s: has %d frame folders; DATASETS.FRAME_NUM %d uses the first ones", folder / "img",
                       len(names), frame_num)
    return [names[number].name for number in range(first, first + frame_num)]


def frame_name(folder: Path, frame: int) -> str:
    """Find the folder under img/ of one frame.

    Args:
        folder: of the scene.
        frame: number of the frame, from 1 whatever the first folder's number is.

    Returns:
        The folder's name.

    Raises:
        SceneError: there is no such frame, or two folders have one number.
    """
    names = frame_folders(folder)
    number = frame if 0 not in names else frame - 1
    if frame < 1:
        raise SceneError(f"--frame is {frame}; frames count from 1")
    if number not in names:
        raise SceneError(f"{folder / 'img' / str(number)}: no such frame folder; the scene has {len(names)} frames")
    return names[number].name


def find_clouds(folder: Path, frame_num: int) -> list[Path]:
    """Find the files of the point clouds of the first frames.

    Args:
        folder: of the scene; without a folder pointclouds/ of its own, the one beside it counts.
        frame_num: number of frames.

    Returns:
        One file for each frame.

    Raises:
        SceneError: a cloud is missing, or two have one number.
    """
    cloud_folder, clouds = _numbered_clouds(folder)
    first = 0 if 0 in clouds else 1
    for number in range(first, first + frame_num):
        if number not in clouds:
            raise SceneError(f"{cloud_folder}: has no point cloud frame{number} ({', '.join(CLOUD_SUFFIXES)}); "
                             f"DATASETS.FRAME_NUM {frame_num} needs {first} to {first + frame_num - 1}")
    if len(clouds) > frame_num:
        logger.warning("%s: has %d point clouds; DATASETS.FRAME_NUM %d uses the first ones", cloud_folder,
                       len(clouds), frame_num)
    return [clouds[number] for number in range(first, first + frame_num)]


def find_cloud(folder: Path, frame: int) -> Path:
    """Find the file of one frame's point cloud.

    Args:
        folder: of the scene, as of `find_clouds`.
        frame: number of the frame, from 1 whatever the first cloud's number is.

    Returns:
        The file.

    Raises:
        SceneError: there is no such cloud, or two have one number.
    """
    cloud_folder, clouds = _numbered_clouds(folder)
    number = frame if 0 not in clouds else frame - 1
    if number not in clouds:
        raise SceneError(f"{cloud_folder}: has no point cloud frame{number} ({', '.join(CLOUD_SUFFIXES)})")
    return clouds[number]


def first_photograph(folder: Path) -> Path:
    """Find the photograph of the lowest number.

    Args:
        folder: of a frame's photographs.

    Returns:
        The file.

    Raises:
        SceneError: there is none, or two have one number.
    """
    images = _numbered(folder, _PHOTOGRAPH)
    if not images:
        raise SceneError(f"{folder}: has no photograph img_0001 (.jpg, .jpeg, .png)")
    return images[min(images)]


def find_photographs(folder: Path, n_cameras: int, pose_file: Path) -> dict[int, Path]:
    """Find the photographs of a frame, numbered from 0 or 1 without a gap, one for each camera.

    Args:
        folder: of the frame's photographs.
        n_cameras: number of cameras.
        pose_file: of the cameras, for error messages.

    Returns:
        {number: file}, rising.

    Raises:
        SceneError: a photograph is missing, or there are too many.
    """
    first = first_photograph(folder)
    images = _numbered(folder, _PHOTOGRAPH)
    lowest, highest = min(images), max(images)
    _warn_of_others(folder, [*images.values(), *_numbered(folder, _MATTE).values()],
                    "img_0001.jpg and img_0001_alpha.png")
    if lowest > 1:
        raise SceneError(f"{first}: is the first photograph; numbers start at 0 or 1")
    for number in range(lowest, highest + 1):
        if number not in images:
            raise SceneError(f"{folder}: photograph number {number} is missing; they run to {highest}")
    if len(images) != n_cameras:
        raise SceneError(f"{folder}: has {len(images)} photographs for the {n_cameras} cameras of {pose_file}")
    return dict(sorted(images.items()))


def find_mattes(folder: Path, name: str, images: dict[int, Path]) -> list[Path | None]:
    """Find the matte files of a frame's photographs; one beside the photograph comes before one in mask/.

    Args:
        folder: of the scene.
        name: of the frame's folder.
        images: {number: photograph}.

    Returns:
        One file for each photograph, None where there is none.

    Raises:
        SceneError: two mattes in one folder have the same number.
    """
    mattes: dict[int, Path] = {}
    for found in _mattes_by_place(folder, name):
        mattes = found | mattes
    return [mattes.get(number) for number in images]


def warn_of_unused_mattes(folder: Path, name: str, mattes: Sequence[Path | None]) -> None:
    """Warn of matte files of a frame that belong to no photograph, or to one that has another.

    Args:
        folder: of the scene.
        name: of the frame's folder.
        mattes: of `find_mattes`.
    """
    found = [path for place in _mattes_by_place(folder, name) for path in place.values()]
    for place in _mask_folders(folder, name):
        _warn_of_others(place, found, "img_0001.png or img_0001.jpg")
    unused = [path for path in found if path not in mattes]
    if unused:
        logger.warning("%s: %d of %d mattes are not used, first %s; their photographs have others (one beside a "
                       "photograph comes before one in mask/), or no photograph has their number",
                       folder / "img" / name, len(unused), len(found), unused[0])


def _numbered_clouds(folder: Path) -> tuple[Path, dict[int, Path]]:
    """The folder of a scene's clouds, and the clouds by number."""
    cloud_folder = folder / "pointclouds"
    if not cloud_folder.is_dir() and (folder.parent / "pointclouds").is_dir():
        # A scene of held-out views within the one to train on.
        logger.info("%s: no such folder; the clouds of %s are used", cloud_folder, folder.parent)
        cloud_folder = folder.parent / "pointclouds"
    if not cloud_folder.is_dir():
        raise SceneError(f"{cloud_folder}: no such folder; it needs frame1{CLOUD_SUFFIXES[0]} (or .ply, .obj, .npy)")
    clouds = _numbered(cloud_folder, _CLOUD)
    _warn_of_others(cloud_folder, clouds.values(), f"frame1{CLOUD_SUFFIXES[0]} and so on")
    return cloud_folder, clouds


def _mask_folders(folder: Path, name: str) -> list[Path]:
    return [place for place in (folder / "img" / name / "mask", folder / name / "mask") if place.is_dir()]


def _mattes_by_place(folder: Path, name: str) -> list[dict[int, Path]]:
    """Mattes by number beside the photographs, then in each folder mask/."""
    # Those of an earlier place come first.
    return [_numbered(folder / "img" / name, _MATTE)] + [_numbered(place, _MASK) for place in
                                                         _mask_folders(folder, name)]


def _numbered(folder: Path, pattern: re.Pattern[str], *, folders: bool = False) -> dict[int, Path]:
    """{number: file or folder} of the entries whose names match; a number met twice is an error."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and path.is_dir() == folders:
            earlier = found.setdefault(int(match[1]), path)
            if earlier is not path:
                raise SceneError(f"{path}: has the number of {earlier.name}; keep one of them")
    return found


def _warn_of_others(folder: Path, known: Iterable[Path], expected: str) -> None:
    others = sorted({path.name for path in folder.iterdir() if path.is_file()} - {path.name for path in known})
    if others:
        logger.warning("%s: %d other files are passed over, such as %s; expected are %s", folder, len(others),
                       others[0], expected)
