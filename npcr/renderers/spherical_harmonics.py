# SPDX-License-Identifier: Apache-2.0
"""Colors that depend on the direction from which they are seen, as coefficients of spherical harmonics."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DEGREE = 3
_CONSTANT = 0.28209479  # the first spherical harmonic


def constant_coefficient(color: Tensor) -> Tensor:
    """Compute the coefficient of the constant spherical harmonic that gives a color in every direction.

    Args:
        color: (N, 3).

    Returns:
        (N, 1, 3).
    """
    return (color / _CONSTANT)[:, None]


def color_from(coefficients: Tensor, directions: Tensor) -> Tensor:
    """Evaluate colors in the directions from which they are seen.

    Args:
        coefficients: (N, (degree + 1)², 3).
        directions: (N, 3) unit vectors, from the camera to each point.

    Returns:
        (N, 3), of any range.
    """
    degree = int(coefficients.shape[1] ** 0.5) - 1
    # Not an einsum: it would be a matrix product for each point.
    return (spherical_harmonics(directions, degree)[:, :, None] * coefficients).sum(1)


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Evaluate the real spherical harmonics up to a degree.

    Args:
        directions: (N, 3) unit vectors.
        degree: 0 to `MAX_DEGREE`.

    Returns:
        (N, (degree + 1)²), orthonormal over the sphere.
    """
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, _CONSTANT)]
    if degree >= 1:
        values += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree >= 2:
        values += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * z * z - x * x - y * y),
                   -1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    if degree >= 3:
        values += [-0.59004359 * y * (3 * x * x - y * y), 2.89061144 * x * y * z,
                   -0.45704580 * y * (5 * z * z - 1), 0.37317633 * z * (5 * z * z - 3),
                   -0.45704580 * x * (5 * z * z - 1), 1.44530572 * z * (x * x - y * y),
                   -0.59004359 * x * (x * x - 3 * y * y)]
    return torch.stack(values, dim=-1)
