# SPDX-License-Identifier: Apache-2.0
"""Splats as the .ply of 3D Gaussian Splatting (Kerbl et al. 2023), which many viewers show, and as Niantic's .spz.

A vertex of the .ply has x y z, nx ny nz (0), f_dc_0 to 2 and f_rest_0 to 44 (spherical harmonics of the color minus one
half; the higher ones channel by channel), opacity before the sigmoid, scale_0 to 2 as logarithms, and rot_0 to 3, a
quaternion w x y z: 248 bytes. A .spz has the same numbers rounded to 65 bytes at most (github.com/nianticlabs/spz,
version 3), compressed; it is written by gsply (extra `splats`). Its axes are x right, y up, z back by definition, those
of a .ply x right, y down, z forward by custom, so that readers turn the one into the other half around x; here it is
the .ply that has the scene's coordinates. Viewers draw with a low-pass filter of their own.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plyfile
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.extras import import_extra
from npcr.io.files import atomic_path, atomic_write

_CONSTANT_HARMONIC = 0.28209479177387814
_HIGHER = 15  # harmonics of degree 1 to 3, which the first viewer demands; lower degrees are filled up with 0
_SPZ_SCALES = (-10.0, 255 / 16 - 10)  # logarithms that a .spz holds
_SPZ_COLOR = 127.5 / (0.15 * 255)  # of the constant harmonic
_SPZ_FLAGS, _SPZ_ANTIALIASED = 14, 1  # a byte of its header, and the bit that says: trained with Mip-Splatting's filter
_HALF_AROUND_X = np.array([1, -1, -1], np.float32)
_HARMONICS_AROUND_X = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)
_SMALLEST = 1e-12  # world units: of what is thinner no logarithm could be written
Array = NDArray[np.float32]


class SplatCloud(NamedTuple):
    """N Gaussians of the covariance w² I + s sᵀ."""

    means: Array  # (N, 3) world
    strands: Array  # (N, 3) s, world: half of the strand
    widths: Array  # (N,) w, world: standard deviation across the strand
    opacity: Array  # (N,) before the sigmoid
    harmonics: Array  # (N, 1 to 16, 3) coefficients of the color, the constant one first


def write_splats(path: str | Path, cloud: SplatCloud, comments: Sequence[str] = ()) -> None:
    """Write splats as a binary .ply, atomically.

    Args:
        path: the file.
        cloud: the splats.
        comments: lines of ASCII for the file's header.

    Raises:
        OSError: the file cannot be written.
    """
    scales, rotations = _log_scales_and_rotations(cloud)
    higher = np.zeros((len(cloud.means), _HIGHER, 3), np.float32)
    higher[:, :cloud.harmonics.shape[1] - 1] = cloud.harmonics[:, 1:]
    columns = {
        **dict(zip("xyz", cloud.means.T, strict=True)), **dict.fromkeys(("nx", "ny", "nz"), np.float32(0)),
        **{f"f_dc_{channel}": _constant_harmonics(cloud)[:, channel] for channel in range(3)},
        **{f"f_rest_{channel * _HIGHER + index}": higher[:, index, channel]
           for channel in range(3) for index in range(_HIGHER)},
        "opacity": cloud.opacity,
        **{f"scale_{axis}": scales[:, axis] for axis in range(3)},
        **{f"rot_{part}": rotations[:, part] for part in range(4)},
    }
    vertices = np.empty(len(cloud.means), dtype=[(name, np.float32) for name in columns])
    for name, values in columns.items():
        vertices[name] = values
    data = plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<", comments=list(comments))
    with atomic_write(path) as file:
        data.write(file)


def write_spz(path: str | Path, cloud: SplatCloud) -> dict[str, int]:
    """Write splats as .spz, atomically, in the format's axes and marked as trained with Mip-Splatting's filter.

    Positions are rounded to as fine a step as the farthest allows, 2^-23 of its coordinate or less.

    Args:
        path: the file.
        cloud: the splats, at least one.

    Returns:
        How many splats have a number beyond the format's range, which becomes the nearest that it holds: "size"
        (standard deviations outside 4.5e-5 to 378 world units), "color" and "color by direction".

    Raises:
        MissingExtraError: gsply is not installed.
        NpcrError: a coordinate is beyond the format.
        OSError: the file cannot be written.
    """
    gsply = import_extra("gsply")
    cloud = _turned_half_around_x(cloud)
    scales, rotations = _log_scales_and_rotations(cloud)
    constant, higher = _constant_harmonics(cloud), cloud.harmonics[:, 1:]
    parts = {"means": cloud.means, "scales": scales, "quats": rotations, "opacities": cloud.opacity, "sh0": constant,
             "shN": higher}
    data = gsply.GSData(**{name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()})
    with atomic_path(path) as temporary:
        gsply.write_spz(temporary, data, fractional_bits=spz_fraction_bits(cloud.means))
        content = bytearray(gzip.decompress(temporary.read_bytes()))
        content[_SPZ_FLAGS] |= _SPZ_ANTIALIASED  # gsply leaves it off
        temporary.write_bytes(gzip.compress(content, mtime=0))
    beyond = {"size": (scales < _SPZ_SCALES[0]) | (scales > _SPZ_SCALES[1]),
              "color": np.abs(constant) > _SPZ_COLOR, "color by direction": np.abs(higher) > 1}
    return {name: int(outside.reshape(len(outside), -1).any(axis=1).sum()) for name, outside in beyond.items()}


def spz_fraction_bits(means: Array) -> int:
    """Choose how fine a .spz's positions are, which are whole numbers of 24 bits.

    Args:
        means: (N, 3) world.

    Returns:
        Bits of the fraction, 1 to 24: their step is 2 to the power of minus that.

    Raises:
        NpcrError: a coordinate is beyond the format.
    """
    largest = float(abs(means).max(initial=0))
    bits = next((bits for bits in range(24, 0, -1) if largest * 2.0**bits <= 2**23 - 1), None)
    if bits is None:
        raise NpcrError(f"a splat has a coordinate of {largest:g} world units; a .spz holds 4.19e6 at most: write a "
                        ".ply, or scale the scene")
    return bits


def _turned_half_around_x(cloud: SplatCloud) -> SplatCloud:
    """From x right, y down, z forward to x right, y up, z back, or the other way."""
    signs = _HARMONICS_AROUND_X[:cloud.harmonics.shape[1], None]
    return cloud._replace(means=cloud.means * _HALF_AROUND_X, strands=cloud.strands * _HALF_AROUND_X,
                          harmonics=cloud.harmonics * signs)


def _log_scales_and_rotations(cloud: SplatCloud) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scales, rotations = scales_and_rotations(cloud.strands, cloud.widths)
    return np.log(np.maximum(scales, _SMALLEST)), rotations


def _constant_harmonics(cloud: SplatCloud) -> Array:
    """(N, 3) of the color minus one half."""
    return cloud.harmonics[:, 0] - 0.5 / _CONSTANT_HARMONIC


def scales_and_rotations(strands: Array, widths: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn w² I + s sᵀ into axes: x lies along the strand.

    Args:
        strands: (N, 3) s.
        widths: (N,) w.

    Returns:
        (N, 3) standard deviations along x, y and z, and (N, 4) unit quaternions w x y z that turn these axes into the
        world; no turn where a strand is 0.
    """
    strands, widths = strands.astype(np.float64), widths.astype(np.float64)
    lengths = np.linalg.norm(strands, axis=1)
    directions = np.divide(strands, lengths[:, None], out=np.tile([1.0, 0, 0], (len(strands), 1)),
                           where=lengths[:, None] > 0)
    directions *= np.where(directions[:, :1] < 0, -1, 1)  # s and -s are one strand; a turn of at most 90 degrees
    x, y, z = directions.T
    rotations = np.stack([1 + x, np.zeros_like(x), -z, y], axis=1)  # the shortest turn from (1, 0, 0) to (x, y, z)
    rotations /= np.linalg.norm(rotations, axis=1, keepdims=True)
    return np.stack([np.hypot(widths, lengths), widths, widths], axis=1), rotations
