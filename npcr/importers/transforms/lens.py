# SPDX-License-Identifier: Apache-2.0
"""Lenses of transforms.json: focal lengths, angles of view, principal points, and the models of distortion.

The keys are those of nerfstudio and instant-ngp. Of two levels the frame's own comes first; within a level focal
lengths in pixels come before camera_angle_x (radians) and x_fov (degrees), and what contradicts them is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npcr.importers.lenses import BrownDistortion, Distortion, FisheyeDistortion, Lens
from npcr.importers.transforms.values import LENS_KEYS, FrameValues, truth
from npcr.io.images import inspect_image

_BROWN = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "FULL_OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE")
_PANORAMAS = ("EQUIRECTANGULAR", "PANORAMA", "SPHERICAL", "LATLONG", "OMNIDIRECTIONALSTEREO_L",
              "OMNIDIRECTIONALSTEREO_R", "VR180_L", "VR180_R")
_BROWN_COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4")  # in OpenCV's order
_FISHEYE_COEFFICIENTS = ("k1", "k2", "k3", "k4")
_UNKNOWN_COEFFICIENTS = ("p3", "p4", "b1", "b2", "skew", "distortion", "distortioncoefficients", "distortioncoeffs",
                         "distcoeffs", "dist", "lensdistortion")  # of other tools, in lower case without _
_RATIONAL = ("k4", "k5", "k6")
_PIXELS = ("fl_x", "fl_y", "cx", "cy")  # numbers that belong to one size of the photograph
_SHORTEST_FOCAL = 0.05  # of the photograph's side: 168 degrees of a pinhole camera, 570 of a fisheye lens
_SAME_FOCAL = 0.01  # relative difference


def read_lens(values: FrameValues, image: Path, pixel_origin: str) -> Lens:
    """Read the lens of a frame.

    Args:
        values: of the frame.
        image: its photograph, whose size counts where w and h are not given.
        pixel_origin: what cx and cy are measured from: "corner" or "center" of the first pixel.

    Returns:
        The lens.

    Raises:
        SceneError: a value is missing, malformed or impossible, or two contradict each other.
    """
    _note_overridden(values)
    _check_kind(values)
    stated = _stated_size(values)
    size = stated or inspect_image(image)[0]
    distortion = _distortion(values)
    focal = _focal(values, size, fisheye=isinstance(distortion, FisheyeDistortion))
    return Lens(focal, _center(values, size, 0.5 if pixel_origin == "corner" else 0.0), stated, distortion)


def _note_overridden(values: FrameValues) -> None:
    differing = [key for key in LENS_KEYS if values.shared.get(key) is not None
                 and values.entry.get(key) not in (None, values.shared[key])]
    if differing:
        values.remarks.add("frames have lens values of their own, which count in place of the top level's",
                           f"{values.label}: {', '.join(differing)}")
    own_size = [key for key in ("w", "h") if key in differing]
    for key in _PIXELS if own_size else ():
        if values.entry.get(key) is None and values.shared.get(key) is not None:
            raise values.error(own_size[0], values.entry[own_size[0]],
                               f"the top level's is {values.shared[own_size[0]]}, and {key} is given there only: give "
                               f"the frame its own {key}")


def _check_kind(values: FrameValues) -> None:
    """Refuse what is no picture of a perspective or fisheye lens."""
    for key in ("latlong", "equirectangular"):
        if truth(values.get(key)):
            raise values.error(key, values.get(key), "a panorama is no pinhole picture; cut it into perspective ones")
    if values.get("ftheta_p0") is not None:
        raise values.error("ftheta_p0", values.get("ftheta_p0"), "f-theta lenses are not supported; undistort the "
                           "photographs, or fit OPENCV_FISHEYE")


def _stated_size(values: FrameValues) -> tuple[int, int] | None:
    width, height = _pair(values, "w", "h")
    if width is None or height is None:
        return None
    if width < 1 or height < 1:
        raise values.error("w", f"{width:g}x{height:g}", "the size must be at least 1x1")
    for key, side in (("w", width), ("h", height)):
        if not side.is_integer():
            raise values.error(key, side, "a whole number of pixels is needed")
    return int(width), int(height)


def _center(values: FrameValues, size: tuple[int, int], shift: float) -> tuple[float, float] | None:
    x, y = _pair(values, "cx", "cy")
    if x is None or y is None:
        return None
    if 0 < x < 1 and 0 < y < 1 and min(size) > 2:
        raise values.error("cx", x, f"pixels are needed, and the photograph has {size[0]}x{size[1]}: multiply cx by w "
                           "and cy by h if they are shares of it")
    if not (0 < x < size[0] and 0 < y < size[1]):
        values.remarks.add("the principal point (cx, cy) lies outside of the photograph",
                           f"{values.label}: {x:g}, {y:g} in {size[0]}x{size[1]}")
    return x - shift, y - shift


def _pair(values: FrameValues, *keys: str) -> tuple[float | None, float | None]:
    """Two numbers that are given both or not at all."""
    first, second = (values.number(key) for key in keys)
    if (first is None) != (second is None):
        given, lacking = keys if second is None else keys[::-1]
        raise values.error(lacking, None, f"{given} is given, and the two belong together")
    return first, second


def _focal(values: FrameValues, size: tuple[int, int], fisheye: bool) -> tuple[float, float]:
    (own_x, own_y), (shared_x, shared_y) = (
        [_focal_on(values, level, axis, size, fisheye) for axis in range(2)] for level in values.levels)
    x = shared_x if own_x is None else own_x
    if x is None:
        raise values.error("fl_x", None, "a fisheye lens needs it (pixels); an angle of view does not say it" if fisheye
                           else "fl_x (pixels) or camera_angle_x (radians, between 0 and pi) is needed")
    if own_x not in (None, shared_x) and own_y is None and shared_y is not None:
        raise values.error("fl_y", None, "the frame has a focal length in x of its own, and the top level one in y: "
                           "give the frame both")
    return x, next(y for y in (own_y, shared_y, x) if y is not None)


def _focal_on(values: FrameValues, level: Mapping[str, Any], axis: int, size: tuple[int, int],
              fisheye: bool) -> float | None:
    """The focal length along an axis, in pixels, by what one level says; None where it says nothing."""
    name = "xy"[axis]
    found: dict[str, float] = {}
    for key, unit in ((f"fl_{name}", 0.0), (f"camera_angle_{name}", 1.0), (f"{name}_fov", math.pi / 180)):
        if level.get(key) is None:
            continue
        number = values.checked(key, level[key])
        if not unit:
            found[key] = _checked_focal(values, key, number, size[axis])
        elif not 0 < number * unit < math.pi:
            raise values.error(key, number, "an angle above 0 and below "
                               + ("pi (radians) is needed" if unit == 1 else "180 (degrees) is needed"))
        elif not fisheye:
            found[key] = 0.5 * size[axis] / math.tan(number * unit / 2)
    if not found:
        return None
    key, focal = next(iter(found.items()))
    for other, by_angle in found.items():
        if abs(by_angle - focal) > _SAME_FOCAL * focal:
            values.remarks.add(f"{key} and {other} contradict each other; {key} counts",
                               f"{values.label}: {other} {level[other]:g} is a focal length of {by_angle:.4g}, not "
                               f"{focal:.4g}")
    return focal


def _checked_focal(values: FrameValues, key: str, focal: float, side: int) -> float:
    if focal <= 0:
        raise values.error(key, focal, "a focal length must be above 0")
    if focal < _SHORTEST_FOCAL * side:
        raise values.error(key, focal, f"pixels are needed, at least {_SHORTEST_FOCAL:g} of the photograph's {side}; "
                           "a share of its side is multiplied by it, millimeters by pixels per millimeter")
    return focal


def _distortion(values: FrameValues) -> Distortion | None:
    model, fisheye = _model(values)
    _check_unknown_coefficients(values)
    used = _FISHEYE_COEFFICIENTS if fisheye else _BROWN_COEFFICIENTS
    numbers = {key: values.number(key) or 0.0 for key in _BROWN_COEFFICIENTS}
    for key, number in numbers.items():
        if number and key not in used:
            raise values.error(key, number, f"a fisheye lens has {', '.join(used)} only; undistort the photographs "
                               "with the tool that made them, or fit OPENCV_FISHEYE")
        if number and not fisheye and key in _RATIONAL and model != "FULL_OPENCV":
            raise values.error(key, number, "only OPENCV_FISHEYE (k1 to k4) and FULL_OPENCV cameras (k1 to k6) may "
                               "have it; name the model in camera_model")
    coefficients = tuple(numbers[key] for key in used)
    if fisheye:
        return FisheyeDistortion(coefficients)
    if any(coefficients) and model in ("PINHOLE", "SIMPLE_PINHOLE"):
        values.remarks.add(f"camera_model is {model}, which has no distortion, but coefficients are given; they are "
                           "used", values.label)
    while len(coefficients) > 5 and not any(coefficients[5:]):
        coefficients = coefficients[:5]
    return BrownDistortion(coefficients) if any(coefficients) else None


def _check_unknown_coefficients(values: FrameValues) -> None:
    for key, value in {**values.shared, **values.entry}.items():
        if key.lower().replace("_", "") in _UNKNOWN_COEFFICIENTS and _has_numbers(value):
            raise values.error(key, value, "it is none of the format's keys, and left out the lens would be another: "
                               "give k1 to k6, p1, p2, s1 to s4, or distortion_params, as OpenCV defines them, or "
                               "undistort the photographs with the tool that made them")


def _has_numbers(value: Any) -> bool:
    """Whether a number other than 0 is in a value; words such as "none" and truth values are no coefficients."""
    if isinstance(value, (list, dict)):
        return any(map(_has_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def _model(values: FrameValues) -> tuple[str, bool]:
    """The camera model, "" where none is named, and whether the lens is a fisheye; the frame's word comes first."""
    name = values.get("camera_model")
    model = "" if name is None else _checked_model(values, name)
    for level in values.levels:
        flag, by_flag = level.get("is_fisheye"), truth(level.get("is_fisheye"))
        if flag is not None and by_flag is None:
            raise values.error("is_fisheye", flag, "true or false is needed")
        by_model = model in _FISHEYE if level.get("camera_model") else None
        if by_flag is not None and by_model is not None and by_flag != by_model:
            raise values.error("is_fisheye", flag, f"camera_model beside it is {model}; take one of the two away")
        for fisheye in (by_flag, by_model):
            if fisheye is not None:
                return model, fisheye
    return model, False


def _checked_model(values: FrameValues, name: Any) -> str:
    if name == "":
        return ""
    model = name.strip().upper().replace("-", "_").replace(" ", "_") if isinstance(name, str) else ""
    if model in _PANORAMAS:
        raise values.error("camera_model", name, "a panorama is no pinhole picture; cut it into perspective ones, as "
                           "nerfstudio's ns-process-data images --camera-type equirectangular does")
    if model not in _BROWN + _FISHEYE:
        raise values.error("camera_model", name, f"known are {', '.join(_BROWN[:-1] + _FISHEYE[:-1])}; undistort the "
                           "photographs of other lenses")
    return model
