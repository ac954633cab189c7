# SPDX-License-Identifier: Apache-2.0
"""Splats as the .ply of 3D Gaussian Splatting (Kerbl et al. 2023), which many viewers show.

A vertex has x y z, nx ny nz (0), f_dc_0 to 2 and f_rest_0 to 44 (spherical harmonics of the color minus one half; the
higher ones channel by channel), opacity before the sigmoid, scale_0 to 2 as logarithms, and rot_0 to 3, a quaternion w
x y z. Viewers draw with a low-pass filter of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plyfile
from numpy.typing import NDArray

from npcr.io.files import atomic_write

_CONSTANT_HARMONIC = 0.28209479177387814
_HIGHER = 15  # harmonics of degree 1 to 3, which the first viewer demands; lower degrees are filled up with 0
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
    scales, rotations = scales_and_rotations(cloud.strands, cloud.widths)
    higher = np.zeros((len(cloud.means), _HIGHER, 3), np.float32)
    higher[:, :cloud.harmonics.shape[1] - 1] = cloud.harmonics[:, 1:]
    columns = {
        **dict(zip("xyz", cloud.means.T, strict=True)), **dict.fromkeys(("nx", "ny", "nz"), np.float32(0)),
        **{f"f_dc_{channel}": cloud.harmonics[:, 0, channel] - 0.5 / _CONSTANT_HARMONIC for channel in range(3)},
        **{f"f_rest_{channel * _HIGHER + index}": higher[:, index, channel]
           for channel in range(3) for index in range(_HIGHER)},
        "opacity": cloud.opacity,
        **{f"scale_{axis}": np.log(np.maximum(scales[:, axis], _SMALLEST)) for axis in range(3)},
        **{f"rot_{part}": rotations[:, part] for part in range(4)},
    }
    vertices = np.empty(len(cloud.means), dtype=[(name, np.float32) for name in columns])
    for name, values in columns.items():
        vertices[name] = values
    data = plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<", comments=list(comments))
    with atomic_write(path) as file:
        data.write(file)


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
