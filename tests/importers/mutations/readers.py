# SPDX-License-Identifier: Apache-2.0
"""What a damaged file plainly says: a few strict lines for each format, which know nothing of the importers.

Each reader returns {photograph's path: (pose, focal, center, split)} of the views, or the points (N, 6) with colors; it
raises where the file is malformed. Principal points are in pixel-center coordinates.
"""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npcr.camera_paths import rotation


class NotJudged(Exception):
    """The file asks for what these readers do not know, such as distortion; tests of their own look at that."""


class View(NamedTuple):
    pose: np.ndarray  # (4, 4) camera-to-world, OpenCV axes
    focal: tuple[float, float]
    center: tuple[float, float]
    split: str = "train"


Views = dict[Path, View]


def read_transforms(folder: Path) -> Views:
    values = json.loads((folder / "transforms.json").read_bytes().decode("utf-8"))
    views = {}
    for entry in values["frames"]:
        shared = values | entry
        if any(shared.get(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2", "is_fisheye")):
            raise NotJudged("a distortion")
        matrix = np.array(entry["transform_matrix"], dtype=float)
        split = [s for s in ("train", "val", "test") if entry["file_path"] in values.get(f"{s}_filenames", [])]
        if matrix.shape != (4, 4) or not np.array_equal(matrix[3], [0, 0, 0, 1]) or len(split) != 1:
            raise ValueError("a matrix or a split")
        focal = shared["fl_x"], shared.get("fl_y", shared["fl_x"])
        views[folder / entry["file_path"]] = View(
            matrix @ np.diag([1.0, -1, -1, 1]), focal, (shared["cx"] - 0.5, shared["cy"] - 0.5), split[0])
    return views


def read_colmap_text(folder: Path) -> Views:
    place = folder / "sparse" / "0"
    cameras = {}
    for words in _rows(place / "cameras.txt"):
        if words[1] != "PINHOLE" or len(words) != 8:
            raise ValueError("a camera")
        cameras[int(words[0])] = [float(word) for word in words[4:]]
    rows = [line.split() for line in _text(place / "images.txt").split("\n") if not line.startswith("#")]
    views = {}
    for words, points in zip(rows[::2], rows[1::2], strict=False):
        if len(words) != 10 or len(points) % 3:
            raise ValueError("an image")
        views[folder / "images" / words[9]] = _colmap_view([float(w) for w in words[1:8]], cameras[int(words[8])])
    return views


def read_colmap_binary(folder: Path) -> Views:
    place = folder / "sparse" / "0"
    data = (place / "cameras.bin").read_bytes()
    cameras = {}
    for i in range(struct.unpack_from("<Q", data)[0]):
        number, model, _, _ = struct.unpack_from("<IiQQ", data, 8 + 56 * i)
        if model != 1:
            raise ValueError("another model")
        cameras[number] = list(struct.unpack_from("<4d", data, 8 + 56 * i + 24))
    data = (place / "images.bin").read_bytes()
    at, views = 8, {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        numbers = struct.unpack_from("<7d", data, at + 4)
        camera, = struct.unpack_from("<I", data, at + 60)
        end = data.index(b"\0", at + 64)
        views[folder / "images" / data[at + 64:end].decode()] = _colmap_view(numbers, cameras[camera])
        at = end + 9 + 24 * struct.unpack_from("<Q", data, end + 1)[0]
    return views


def read_colmap_text_points(folder: Path) -> np.ndarray:
    rows = _rows(folder / "sparse" / "0" / "points3D.txt")
    if any(len(row) < 8 or len(row) % 2 for row in rows):
        raise ValueError("a point")
    return np.array([[float(word) for word in row[1:7]] for row in sorted(rows, key=lambda row: int(row[0]))])


def read_colmap_binary_points(folder: Path) -> np.ndarray:
    data = (folder / "sparse" / "0" / "points3D.bin").read_bytes()
    at, points = 8, {}
    for _ in range(struct.unpack_from("<Q", data)[0]):
        number, *values = struct.unpack_from("<Q3d3B", data, at)
        points[number] = values
        at += 51 + 8 * struct.unpack_from("<Q", data, at + 43)[0]
    return np.array([points[number] for number in sorted(points)])


def read_metashape(folder: Path) -> Views:
    chunk = ET.fromstring((folder / "cameras.xml").read_bytes())[0]
    calibration = chunk.find("sensors/sensor/calibration")
    transform = chunk.find("transform")
    assert calibration is not None
    if calibration.get("type") != "frame":
        raise NotJudged("another type of lens")
    resolution = calibration.find("resolution")
    assert resolution is not None
    values = {element.tag: float(element.text or "") for element in calibration if element.tag != "resolution"}
    if any(values.get(key) for key in set(values) - {"f", "cx", "cy"}):
        raise NotJudged("a distortion")
    center = tuple(float(resolution.attrib[side]) / 2 - 0.5 + values.get(key, 0.0)
                   for side, key in (("width", "cx"), ("height", "cy")))
    scale, move = 1.0, np.zeros(3)
    if transform is not None:
        scale = float(transform.findtext("scale", "1"))
        move = np.array([float(word) for word in transform.findtext("translation", "0 0 0").split()])
    views = {}
    for camera in chunk.findall("cameras/camera"):
        if camera.attrib["enabled"] != "true" or camera.attrib["sensor_id"] != "0":
            raise ValueError("a camera")
        pose = np.array([float(word) for word in camera.findtext("transform", "").split()]).reshape(4, 4)
        pose[:3, 3] = scale * pose[:3, 3] + move
        label = camera.attrib["label"].replace("\\", "/").rpartition("/")[2].lower().removesuffix(".png")
        views[folder / "images" / f"{label}.png"] = View(pose, (values["f"],) * 2, (center[0], center[1]))
    return views


def read_nhr(folder: Path) -> Views:
    rows = _rows(folder / "CamPose.inf")
    blocks = [block.split("\n") for block in _text(folder / "Intrinsic.inf").strip().split("\n\n")]
    views = {}
    for number, words in enumerate(rows):
        numbers = np.array([float(word) for word in words]).reshape(4, 3)  # forward, right, down, center
        pose = np.eye(4)
        pose[:3] = np.stack([numbers[1], numbers[2], numbers[0], numbers[3]], axis=1)
        matrix = np.array([[float(word) for word in row.split()] for row in blocks[number][-3:]])
        if not np.array_equal(matrix[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], [0, 0, 0, 0, 1]):
            raise ValueError("a matrix")
        views[folder / "img" / "0" / f"img_{number:04d}.png"] = View(
            pose, (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]))
    if len(blocks) != len(rows):
        raise ValueError("blocks")
    return views


def _colmap_view(numbers: Any, camera: list[float]) -> View:
    quaternion = np.array(numbers[:4]) / np.abs(numbers[:4]).max()
    quaternion /= np.linalg.norm(quaternion)
    axis, cosine = quaternion[1:], quaternion[0]
    angle = 2 * np.arctan2(np.linalg.norm(axis), cosine)
    pose = np.eye(4)
    pose[:3, :3] = (rotation(axis, angle) if angle else np.eye(3)).T
    pose[:3, 3] = -pose[:3, :3] @ np.array(numbers[4:7])
    return View(pose, (camera[0], camera[1]), (camera[2] - 0.5, camera[3] - 0.5))


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8").replace("\r\n", "\n")


def _rows(file: Path) -> list[list[str]]:
    return [line.split() for line in _text(file).split("\n") if line.strip() and not line.startswith("#")]
