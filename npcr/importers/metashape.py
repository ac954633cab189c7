# SPDX-License-Identifier: Apache-2.0
"""cameras.xml of Agisoft Metashape (File, Export, Export Cameras).

Its axes are OpenCV's already and its poses camera-to-chunk; the transform of the chunk (or of the camera's
component) brings them to world space. In its camera model the principal point is an offset from the image's
middle, the tangential coefficients are in another order than OpenCV's, and b1, b2 are affinity and skew
("Frame camera model", Metashape manual, appendix on camera models).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree
import numpy as np
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.errors import NpcrError, SceneError
from npcr.importers.base import IMAGE_SUFFIXES, Capture, Importer, Option, View, find_mask
from npcr.importers.lenses import Distortion, Lens

logger = logging.getLogger("npcr")

_TYPES = ("frame", "fisheye", "equidistant_fisheye")
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")


@dataclass(frozen=True)
class MetashapeDistortion:
    """Metashape's frame and equidistant fisheye model: k1..k4, p1..p4."""

    coefficients: tuple[float, ...]
    fisheye: bool

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        k1, k2, k3, k4, p1, p2, p3, p4 = self.coefficients
        if self.fisheye:
            radius = np.linalg.norm(points, axis=1, keepdims=True)
            points = points * np.where(radius > 1e-9, np.arctan(radius) / np.maximum(radius, 1e-9), 1)
        x, y = points.T
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
        more = 1 + p3 * r2 + p4 * r2 * r2
        return np.stack([x * radial + (p1 * (r2 + 2 * x * x) + 2 * p2 * x * y) * more,
                         y * radial + (p2 * (r2 + 2 * y * y) + 2 * p1 * x * y) * more], axis=1)


class MetashapeImporter(Importer):
    """Agisoft Metashape's export of cameras."""

    name = "metashape"
    summary = "Agisoft Metashape's cameras.xml"
    description = """\
Agisoft Metashape's cameras.xml (File, Export, Export Cameras): frame and fisheye sensors with distortion, affinity
and skew, which are undone here. Disabled and unaligned cameras are left out. The cloud is exported separately
(--points), in local coordinates, so that it fits the cameras.
"""
    options = (
        Option("images", "the photographs, searched through (default: images beside the file, else its folder)", Path,
               metavar="FOLDER"),
        Option("masks", "their mattes, as x.png or x.jpg.png", Path, metavar="FOLDER"),
        Option("chunk_space", "keep the chunk's inner coordinates instead of applying its transform", is_flag=True),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_metashape(source, **options)


def read_metashape(source: str | Path, *, images: Path | None = None, masks: Path | None = None,
                   chunk_space: bool = False) -> Capture:
    """Read a cameras.xml; cameras that are disabled or not aligned are counted and left out.

    Args:
        source: the file.
        images: folder of the photographs, searched through; None: images/ beside the file, else the file's own folder.
        masks: folder of mattes, named as the photographs; None: there are none.
        chunk_space: leave the poses as they are within the chunk instead of applying its transform.

    Returns:
        The photographs that exist, in the file's order; no cloud.

    Raises:
        SceneError: something is missing or malformed, or no camera is left.
    """
    file = Path(source)
    chunk = _chunk(file)
    sensors = {_required(s, "id", file): _Sensor.read(s, file) for s in chunk.iter("sensor")}
    to_world: dict[str | None, NDArray[np.float64]] = {
        None: np.eye(4) if chunk_space else _similarity(chunk.find("transform"), file)}
    for component in chunk.iter("component") if not chunk_space else ():
        if component.find("transform") is not None:
            to_world[component.get("id")] = _similarity(component.find("transform"), file)
    folder = images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)
    photographs = _index(folder)
    views: list[View] = []
    missing: list[Path] = []
    disabled = unaligned = 0
    for camera in chunk.iter("camera"):
        if camera.get("enabled", "true").lower() in ("false", "0"):
            disabled += 1
            continue
        transform = camera.find("transform")
        if transform is None:
            unaligned += 1
            continue
        label = camera.get("label") or f"camera {camera.get('id')}"
        sensor = sensors.get(camera.get("sensor_id") or "")
        if sensor is None:
            raise SceneError(f"{file}, {label}: sensor_id is {camera.get('sensor_id')!r}; no such sensor")
        pose = _pose(transform, to_world.get(camera.get("component_id"), to_world[None]), file, label)
        image = _find(photographs, label)
        if image is None:
            missing.append(folder / label)
            continue
        mask = find_mask(masks, image) if masks is not None else None
        if masks is not None and mask is None:
            raise SceneError(f"{masks}: has no matte {image.name}.png or {image.stem}.png")
        views.append(View(label, image, mask, pose, sensor.lens(file)))
    if disabled or unaligned:
        logger.warning("%s: %d cameras are disabled and %d not aligned; they are left out", file, disabled, unaligned)
    if not views:
        raise SceneError(f"{file}: has no camera that is enabled, aligned, and whose photograph is in {folder}")
    return Capture(file, views, missing)


@dataclass(frozen=True)
class _Sensor:
    element: Element
    name: str

    @classmethod
    def read(cls, element: Element, file: Path) -> _Sensor:
        return cls(element, f"sensor {_required(element, 'id', file)}")

    def lens(self, file: Path) -> Lens:
        calibrations = self.element.findall("calibration")
        if not calibrations:
            raise SceneError(f"{file}, {self.name}: has no calibration")
        chosen = next((c for c in calibrations if c.get("class") == "adjusted"), calibrations[0])
        kind = chosen.get("type") or self.element.get("type") or "frame"
        if kind not in _TYPES:
            raise SceneError(f"{file}, {self.name}: type is {kind!r}; known are {', '.join(_TYPES)}")
        resolution = chosen.find("resolution")
        if resolution is None:
            resolution = self.element.find("resolution")
        if resolution is None:
            raise SceneError(f"{file}, {self.name}: has no resolution")
        width, height = (self._checked(resolution.get(key), key, file) for key in ("width", "height"))
        if width < 1 or height < 1:
            raise SceneError(f"{file}, {self.name}: resolution is {width:g}x{height:g}; it must be at least 1x1")

        def value(key: str) -> float:
            return self._checked(chosen.findtext(key, "0"), key, file)

        f, b1 = value("f"), value("b1")
        if not (f > 0 and f + b1 > 0):
            raise SceneError(f"{file}, {self.name}: f is {f:g} and b1 {b1:g}; a focal length in pixels is needed")
        coefficients = tuple(value(key) for key in _COEFFICIENTS)
        distortion: Distortion | None = None
        if any(coefficients) or kind != "frame":
            distortion = MetashapeDistortion(coefficients, kind != "frame")
        # Metashape measures pixels from the outer corner, so the middle of the image lies at w/2.
        center = (width / 2 + value("cx") - 0.5, height / 2 + value("cy") - 0.5)
        return Lens((f + b1, f), center, (round(width), round(height)), distortion, value("b2"))

    def _checked(self, text: str | None, key: str, file: Path) -> float:
        try:
            number = float(text or "")
        except ValueError:
            number = float("nan")
        if not abs(number) < 1e9:
            raise SceneError(f"{file}, {self.name}: {key} is {text!r}; a finite number is needed")
        return number


def _chunk(file: Path) -> Element:
    """The file's chunk. Documents with entities or a DTD are refused: cameras.xml has none."""
    try:
        root = defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise SceneError(f"{file}: no such file") from None
    except OSError as error:
        raise SceneError(f"{file}: cannot be read: {error.strerror}") from None
    except ParseError as error:
        raise SceneError(f"{file}, line {error.position[0]}: not XML: {error}") from None
    except (defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        raise SceneError(f"{file}: is no cameras.xml: {error}") from None
    chunks = [root] if root.tag == "chunk" else list(root.iter("chunk"))
    if not chunks:
        raise SceneError(f"{file}: has no element 'chunk'; is it Metashape's export of cameras?")
    if len(chunks) > 1:
        logger.warning("%s: has %d chunks; the first is used", file, len(chunks))
    return chunks[0]


def _required(element: Element, key: str, file: Path) -> str:
    value = element.get(key)
    if value is None:
        raise SceneError(f"{file}: a {element.tag} has no {key}")
    return value


def _numbers(text: str | None, count: int, place: str) -> NDArray[np.float64]:
    try:
        values = np.array((text or "").split(), dtype=np.float64)
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        found = (text or "").strip()
        raise SceneError(f"{place} is {found[:60]!r}; {count} finite numbers are needed")
    return values


def _similarity(element: Element | None, file: Path) -> NDArray[np.float64]:
    """(4, 4) of <rotation>, <translation>, <scale>; what is left out changes nothing."""
    matrix = np.eye(4)
    if element is None:
        return matrix
    place = f"{file}, transform of the chunk or component"
    if (rotation := element.findtext("rotation")) is not None:
        matrix[:3, :3] = _numbers(rotation, 9, f"{place}: rotation").reshape(3, 3)
    if (translation := element.findtext("translation")) is not None:
        matrix[:3, 3] = _numbers(translation, 3, f"{place}: translation")
    if (scale := element.findtext("scale")) is not None:
        factor = float(_numbers(scale, 1, f"{place}: scale")[0])
        if not factor > 0:
            raise SceneError(f"{place}: scale is {factor:g}; it must be above 0")
        matrix[:3, :3] *= factor
    return matrix


def _pose(element: Element, to_world: NDArray[np.float64], file: Path, label: str) -> NDArray[np.float64]:
    pose = _numbers(element.text, 16, f"{file}, {label}: transform").reshape(4, 4)
    result = to_world @ pose
    length = np.cbrt(abs(np.linalg.det(to_world[:3, :3])))
    try:
        result[:3, :3] /= max(length, 1e-30)
        return orthonormal_pose(result)
    except NpcrError as error:
        raise SceneError(f"{file}, {label}: transform: {error}") from None


def _index(folder: Path) -> dict[str, list[Path]]:
    """Photographs in the folder and below, by name and by stem."""
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder of photographs")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in IMAGE_SUFFIXES and path.is_file():
            for key in (path.name, path.stem):
                found.setdefault(key, []).append(path)
    return found


def _find(photographs: dict[str, list[Path]], label: str) -> Path | None:
    """The photograph of a camera, whose label is a file's name with or without suffix, or a path that ends so."""
    parts = Path(label.replace("\\", "/")).parts
    for path in photographs.get(parts[-1] if parts else "", []):
        if [p.lower() for p in path.with_suffix("").parts[-len(parts):-1]] == [p.lower() for p in parts[:-1]]:
            return path
    return None
