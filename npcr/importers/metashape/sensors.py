# SPDX-License-Identifier: Apache-2.0
"""Sensors of a cameras.xml: their lenses, their bands, and where they sit in a rig.

In Metashape's camera model the principal point is an offset from the image's middle, the tangential coefficients are
in another order than OpenCV's, and b1, b2 are affinity and skew ("Frame camera model", Metashape manual, appendix on
camera models). A slave sensor's <rotation> and <translation> (or <location>) take its axes to those of its master.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.errors import NpcrError, SceneError
from npcr.importers.lenses import Distortion, Lens
from npcr.importers.metashape.document import comma_hint, is_true, read_numbers

logger = logging.getLogger("npcr")

_TYPES = ("frame", "fisheye", "equidistant_fisheye")
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2", "p3", "p4")
_OTHERS = ("resolution", "date", "f", "cx", "cy", "b1", "b2")
_OLD = ("fx", "fy", "skew")  # of the model before PhotoScan 1.2, whose other numbers mean something else, too
_SHORTEST = 0.05  # focal length in widths: an angle of view of 169 degrees
_FAR_OFF = 0.25  # of the image's side
_PANORAMAS = ("spherical", "cylindrical")


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


class Sensor:
    """A sensor of a cameras.xml; what is wrong with it is said when a camera needs it.

    Args:
        element: of the sensor, with an id.
        file: for messages.
    """

    def __init__(self, element: Element, file: Path) -> None:
        self._element = element
        self.id = element.get("id", "")
        label = element.get("label")
        self._place = f"{file}, sensor {self.id}" + (f" ({label})" if label else "")

    @property
    def bands(self) -> tuple[str, ...]:
        """Labels of the bands of color it sees; empty where the file does not say."""
        return tuple(band.get("label", "") for band in self._element.iter("band"))

    @property
    def master(self) -> str:
        """The id of the sensor that `offset` refers to; its own for a master."""
        return self._element.get("master_id") or self.id

    @property
    def has_rolling_shutter(self) -> bool:
        """Whether rows are read one after another and Metashape estimated the movement between them."""
        return is_true(self._value("rolling_shutter"))

    @cached_property
    def offset(self) -> NDArray[np.float64]:
        """(4, 4) from its axes to those of its master."""
        matrix = np.eye(4)
        if self.master == self.id:
            return matrix
        rotation = self._element.findtext("rotation")
        shift = self._element.findtext("translation", self._element.findtext("location"))
        if rotation is None or shift is None:
            raise SceneError(f"{self._place}: is a slave of sensor {self.master} without rotation and translation; "
                             "disable its cameras in Metashape, or export poses of their own for them")
        matrix[:3, :3] = read_numbers(rotation, 9, f"{self._place}: rotation").reshape(3, 3)
        matrix[:3, 3] = read_numbers(shift, 3, f"{self._place}: translation")
        try:
            return orthonormal_pose(matrix)
        except NpcrError as error:
            raise SceneError(f"{self._place}: rotation: {error}; disable its cameras in Metashape, or export poses "
                             "of their own for them") from None

    @cached_property
    def lens(self) -> Lens:
        """The adjusted calibration, in this project's pixel coordinates."""
        chosen = self._calibration()
        width, height = self._resolution(chosen)
        f, b1 = self._number(chosen, "f"), self._number(chosen, "b1")
        if not (f > 0 and f + b1 > 0):
            raise SceneError(f"{self._place}: f is {f:g} and b1 {b1:g}; a focal length in pixels is needed")
        is_fisheye = self._kind(chosen) != "frame"
        if f < _SHORTEST * width and not is_fisheye:
            raise SceneError(f"{self._place}: f is {f:g} for {width:g} pixels across, which no lens of this type "
                             "sees at once; a focal length in pixels is needed")
        coefficients = tuple(self._number(chosen, key) for key in _COEFFICIENTS)
        distortion: Distortion | None = None
        if any(coefficients) or is_fisheye:
            distortion = MetashapeDistortion(coefficients, is_fisheye)
        # Metashape measures pixels from the outer corner, so the middle of the image lies at w/2.
        cx, cy = self._number(chosen, "cx"), self._number(chosen, "cy")
        if max(abs(cx) / width, abs(cy) / height) > _FAR_OFF:
            logger.warning("%s: cx is %g and cy %g, so that the principal point is far off the middle of %gx%g; they "
                           "are taken as offsets from it, as Metashape writes them", self._place, cx, cy, width, height)
        center = (width / 2 + cx - 0.5, height / 2 + cy - 0.5)
        return Lens((f + b1, f), center, (round(width), round(height)), distortion, self._number(chosen, "b2"))

    def _calibration(self) -> Element:
        """The adjusted calibration, else the first; all that it says is known."""
        found = self._element.findall("calibration")
        chosen = next((c for c in found if c.get("class") == "adjusted"), found[0] if found else None)
        self._check_kind(self._kind(chosen))
        if chosen is None:
            raise SceneError(f"{self._place}: has no calibration; align its photographs in Metashape, then export the "
                             "cameras again")
        if chosen.get("class") not in ("adjusted", None):
            logger.warning("%s: has no adjusted calibration; the one of class %r is used, which alignment did not "
                           "refine", self._place, chosen.get("class"))
        self._check_entries(chosen)
        return chosen

    def _kind(self, calibration: Element | None) -> str:
        own = self._element.get("type")
        return (calibration.get("type") if calibration is not None else None) or own or "frame"

    def _check_kind(self, kind: str) -> None:
        if kind in _PANORAMAS:
            raise SceneError(f"{self._place}: type is {kind!r}: its photographs are panoramas, which no pinhole camera "
                             "sees; cut them into perspective pictures (such as the faces of a cube) and align these, "
                             "or disable its cameras in Metashape")
        if kind not in _TYPES:
            raise SceneError(f"{self._place}: type is {kind!r}; known are {', '.join(_TYPES)}")
        if self._element.find(".//fiducials") is not None or is_true(self._value("film_camera")):
            raise SceneError(f"{self._place}: is a film camera with fiducial marks, whose scans each lie differently; "
                             "export undistorted photographs and their cameras from Metashape")

    def _check_entries(self, calibration: Element) -> None:
        tags = [child.tag for child in calibration]
        if old := [tag for tag in tags if tag in _OLD]:
            raise SceneError(f"{self._place}: calibration has {', '.join(old)}: it is of PhotoScan before 1.2, where "
                             "cx, cy and the distortion mean something else; export the cameras from a newer version")
        for child in calibration:
            if child.tag not in _COEFFICIENTS + _OTHERS and self._says_something(child):
                raise SceneError(f"{self._place}: calibration has {child.tag} = {child.text}, which is not known; "
                                 f"known are f, cx, cy, b1, b2, {', '.join(_COEFFICIENTS)}")
            if tags.count(child.tag) > 1:
                raise SceneError(f"{self._place}: calibration has {child.tag} {tags.count(child.tag)} times")

    @staticmethod
    def _says_something(child: Element) -> bool:
        try:
            return float(child.text or 0) != 0
        except ValueError:
            return True

    def _value(self, name: str) -> str | None:
        """The text of an element, or of a <property name= value=/>."""
        for child in self._element.iter("property"):
            if child.get("name") == name:
                return child.get("value")
        return self._element.findtext(name)

    def _resolution(self, calibration: Element) -> tuple[float, float]:
        found = calibration.find("resolution")
        if found is None:
            found = self._element.find("resolution")
        if found is None:
            raise SceneError(f"{self._place}: has no resolution")
        width, height = (self._checked(found.get(key), key) for key in ("width", "height"))
        if width < 1 or height < 1:
            raise SceneError(f"{self._place}: resolution is {width:g}x{height:g}; it must be at least 1x1")
        return width, height

    def _number(self, calibration: Element, key: str) -> float:
        return self._checked(calibration.findtext(key, "0"), key)

    def _checked(self, text: str | None, key: str) -> float:
        try:
            number = float(text or "")
        except ValueError:
            number = float("nan")
        if not abs(number) < 1e9:
            raise SceneError(f"{self._place}: {key} is {text!r}; a finite number is needed{comma_hint(text)}")
        return number
