# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from npcr.errors import NpcrError
from npcr.io.points import read_points
from npcr.io.splat_files import SplatCloud, scales_and_rotations, spz_fraction_bits, write_splats, write_spz
from npcr.ops import view_colors


def random_cloud(count: int = 40, harmonics: int = 9) -> SplatCloud:
    rng = np.random.default_rng(0)
    strands = rng.normal(size=(count, 3))
    strands[:4] = [[0, 0, 0], [2, 0, 0], [-2, 0, 0], [0, 0, -1]]
    parts = (rng.normal(size=(count, 3)), strands, rng.uniform(0.01, 1, count), rng.normal(size=count),
             rng.normal(0.3, 0.3, size=(count, harmonics, 3)))
    return SplatCloud(*(part.astype(np.float32) for part in parts))


def read_vertices(path: Path) -> np.ndarray:
    return plyfile.PlyData.read(str(path))["vertex"].data


def covariances(vertices: np.ndarray) -> np.ndarray:
    """(N, 3, 3) R S² Rᵀ, as Kerbl et al. define scale and rotation."""
    w, x, y, z = (vertices[f"rot_{part}"].astype(float) for part in range(4))
    rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                         [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                         [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]).transpose(2, 0, 1)
    scales = np.exp(np.stack([vertices[f"scale_{axis}"].astype(float) for axis in range(3)], axis=1))
    return rotation * scales[:, None] ** 2 @ rotation.transpose(0, 2, 1)


def seen_colors(vertices: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(N, 3) one half plus the harmonics up to degree 2, with the constants and signs of Kerbl et al."""
    places = np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(float)
    x, y, z = ((places - origin) / np.linalg.norm(places - origin, axis=1, keepdims=True)).T
    basis = [-0.4886025119 * y, 0.4886025119 * z, -0.4886025119 * x, 1.0925484306 * x * y, -1.0925484306 * y * z,
             0.3153915653 * (2 * z * z - x * x - y * y), -1.0925484306 * x * z, 0.5462742153 * (x * x - y * y)]
    return np.stack([0.5 + 0.2820947918 * vertices[f"f_dc_{channel}"]
                     + sum(one * vertices[f"f_rest_{15 * channel + index}"] for index, one in enumerate(basis))
                     for channel in range(3)], axis=1)


def test_the_covariance_is_that_of_the_strand(tmp_path: Path) -> None:
    cloud = random_cloud()
    write_splats(tmp_path / "a.ply", cloud)
    expected = (cloud.widths[:, None, None].astype(float) ** 2 * np.eye(3)
                + cloud.strands[:, :, None].astype(float) * cloud.strands[:, None])
    np.testing.assert_allclose(covariances(read_vertices(tmp_path / "a.ply")), expected, atol=2e-6, rtol=2e-5)


def test_colors_by_direction_are_those_of_the_model(tmp_path: Path) -> None:
    cloud = random_cloud()
    write_splats(tmp_path / "a.ply", cloud)
    origin = np.array([0.3, -4.0, 1.0], np.float32)
    constant, others = torch.from_numpy(cloud.harmonics[:, :1]), torch.from_numpy(cloud.harmonics[:, 1:])
    expected = view_colors(torch.from_numpy(cloud.means), torch.from_numpy(origin), constant, others)
    np.testing.assert_allclose(seen_colors(read_vertices(tmp_path / "a.ply"), origin), expected, atol=1e-5)


@pytest.mark.parametrize("harmonics", [1, 4, 16])
def test_every_viewer_finds_the_properties_in_their_usual_order(harmonics: int, tmp_path: Path) -> None:
    cloud = random_cloud(harmonics=harmonics)
    write_splats(tmp_path / "a.ply", cloud, ["one", "two"])
    data = plyfile.PlyData.read(str(tmp_path / "a.ply"))
    assert data.comments == ["one", "two"]
    assert [prop.name for prop in data["vertex"].properties] == [
        *"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{n}" for n in range(45)), "opacity",
        "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    vertices = data["vertex"].data
    assert {vertices.dtype[name].str for name in vertices.dtype.names} == {"<f4"}
    np.testing.assert_array_equal(vertices["opacity"], cloud.opacity)
    for index in range(harmonics - 1):
        np.testing.assert_array_equal(vertices[f"f_rest_{15 + index}"], cloud.harmonics[:, 1 + index, 1])
    assert all((vertices[f"f_rest_{30 + index}"] == 0).all() for index in range(harmonics - 1, 15))


def test_splats_are_a_colored_cloud(tmp_path: Path) -> None:
    cloud = random_cloud(harmonics=1)
    write_splats(tmp_path / "a.ply", cloud)
    points = read_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(points.positions, cloud.means)
    assert points.colors is not None
    np.testing.assert_allclose(points.colors, 255 * (0.28209479 * cloud.harmonics[:, 0]).clip(0, 1), atol=0.51)


def test_thin_splats_and_long_ones() -> None:
    strands = np.array([[1e-9, 0, 0], [1e4, 1e4, 0]], np.float32)
    scales, rotations = scales_and_rotations(strands, np.array([0.0, 1e-6], np.float32))
    np.testing.assert_allclose(scales, [[1e-9, 0, 0], [np.hypot(1e4, 1e4), 1e-6, 1e-6]], rtol=1e-6)
    np.testing.assert_allclose(rotations[1], [np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)], atol=1e-12)


def read_by_the_specification(path: Path) -> dict[str, np.ndarray]:
    """Version 3 (github.com/nianticlabs/spz), in the terms of a .ply."""
    content = gzip.decompress(path.read_bytes())
    magic, version, count, degree, bits, flags, reserved = struct.unpack_from("<4sIIBBBB", content)
    assert (magic, version, flags, reserved) == (b"NGSP", 3, 1, 0)  # 1: antialiased
    parts, start = [], 16
    for width in (9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)):
        parts.append(np.frombuffer(content, np.uint8, count * width, start).reshape(count, width).astype(np.int64))
        start += count * width
    assert start == len(content)
    places, alphas, colors, scales, rotations, harmonics = parts
    fixed = places.reshape(count, 3, 3) @ [1, 256, 65536]
    packed = rotations @ [1, 1 << 8, 1 << 16, 1 << 24]
    quaternions = np.zeros((count, 4))  # x y z w
    largest = packed >> 30
    for axis in (3, 2, 1, 0):  # the last that was kept lies lowest
        kept = largest != axis
        value = (packed & 511) / 511 * np.sqrt(0.5) * np.where(packed >> 9 & 1, -1, 1)
        quaternions[kept, axis] = value[kept]
        packed = np.where(kept, packed >> 10, packed)
    rest = np.sqrt(np.maximum(0, 1 - (quaternions**2).sum(axis=1)))
    quaternions[np.arange(count), largest] = rest
    return {"places": np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed) / 2.0**bits, "alpha": alphas[:, 0] / 255,
            "colors": (colors / 255 - 0.5) / 0.15, "scales": scales / 16 - 10,
            "rotations": quaternions[:, [3, 0, 1, 2]], "harmonics": (harmonics.reshape(count, -1, 3) - 128) / 128}


def read_by_niantics_library(path: Path) -> dict[str, np.ndarray]:
    """By the one within gaussforge, which turns no axes."""
    converted = pytest.importorskip("gaussforge", reason="needs the extra dev").GaussForge().convert(
        path.read_bytes(), "spz", "ply")
    vertices = plyfile.PlyData.read(io.BytesIO(converted["data"]))["vertex"].data

    def columns(*names: str) -> np.ndarray:
        return np.stack([vertices[name].astype(float) for name in names], axis=1)

    rest = sum(name.startswith("f_rest_") for name in vertices.dtype.names)
    harmonics = [vertices[f"f_rest_{index}"] for index in range(rest)] or np.zeros((0, len(vertices)))
    return {"places": columns(*"xyz"), "alpha": 1 / (1 + np.exp(-vertices["opacity"].astype(float))),
            "colors": columns("f_dc_0", "f_dc_1", "f_dc_2"), "scales": columns("scale_0", "scale_1", "scale_2"),
            "rotations": columns("rot_0", "rot_1", "rot_2", "rot_3"),
            "harmonics": np.reshape(harmonics, (3, -1, len(vertices))).T}


def harmonics_around_x(count: int) -> np.ndarray:
    """(count, 1) 1 or -1: what a harmonic becomes where y and z change their signs."""
    direction = torch.tensor([0.3, 0.5, 0.8])
    unit = torch.eye(count)[..., None].expand(-1, -1, 3)
    seen = [view_colors(places.expand(count, 3), torch.zeros(3), unit[:, :1], unit[:, 1:])[:, :1]
            for places in (direction, direction * torch.tensor([1, -1, -1]))]
    return (seen[1] / seen[0]).round().numpy()


@pytest.mark.parametrize("read_spz", [read_by_the_specification, read_by_niantics_library])
@pytest.mark.parametrize("harmonics", [1, 4, 9, 16])
def test_a_spz_holds_the_same_rounded_and_turned(harmonics: int, read_spz: Callable[[Path], dict[str, np.ndarray]],
                                                 tmp_path: Path) -> None:
    pytest.importorskip("gsply", reason="needs the extra splats")
    cloud = random_cloud(harmonics=harmonics)
    cloud.harmonics[:, 1:] *= 0.5
    beyond = write_spz(tmp_path / "a.spz", cloud)
    assert beyond["size"] == 0
    assert beyond["color"] == 0
    assert beyond["color by direction"] == (abs(cloud.harmonics[:, 1:]) > 1).any(axis=(1, 2)).sum()
    read = read_spz(tmp_path / "a.spz")
    np.testing.assert_allclose(read["places"], cloud.means * [1, -1, -1], atol=0.5**21)
    np.testing.assert_allclose(read["alpha"], 1 / (1 + np.exp(-cloud.opacity)), atol=0.5 / 255 + 1e-6)
    write_splats(tmp_path / "a.ply", cloud)
    vertices = read_vertices(tmp_path / "a.ply")
    for name, key, step in (("f_dc", "colors", 0.5 / 38), ("scale", "scales", 0.5 / 16), ("rot", "rotations", 0.004)):
        expected = np.stack([vertices[f"{name}_{part}"] for part in range(read[key].shape[1])], axis=1)
        if name == "rot":
            expected *= [1, 1, -1, -1]
            expected *= np.sign((expected * read[key]).sum(axis=1, keepdims=True))  # q and -q are one turn
        np.testing.assert_allclose(read[key], expected, atol=step)
    turned = cloud.harmonics[:, 1:] * harmonics_around_x(harmonics)[1:]
    np.testing.assert_allclose(read["harmonics"], turned.clip(-1, 127 / 128), atol=0.5 / 128 + 1e-6)


def test_a_spz_is_as_fine_as_its_size_allows() -> None:
    means = np.array([[0, 0.3, -1.9]], np.float32)
    assert spz_fraction_bits(means) == 22
    assert spz_fraction_bits(1000 * means) == 12
    with pytest.raises(NpcrError, match=r"a coordinate of 1\.9e\+07 world units; a \.spz holds 4\.19e6 at most"):
        spz_fraction_bits(1e7 * means)


def test_what_a_spz_cannot_hold_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("gsply", reason="needs the extra splats")
    cloud = random_cloud()
    cloud.widths[:3] = 1e-6
    cloud.harmonics[:2, 0] = 9
    cloud.harmonics[5, 4] = -2
    assert write_spz(tmp_path / "a.spz", cloud) | {"color by direction": 0} == {
        "size": 3, "color": 2, "color by direction": 0}
