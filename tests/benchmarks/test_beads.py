# SPDX-License-Identifier: Apache-2.0
"""What the beads benchmark measures, on hairs that are drawn here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import beads
from npcr.cameras import Cameras
from npcr.data.samples import Sample
from npcr.errors import ConfigError

SIZE = 96


def hair(spacing: float | None) -> beads.Image:
    """A slanted hair: a line, or dots of its width so far apart."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    along, across = 0.8 * (x - SIZE / 2) + 0.6 * (y - SIZE / 2), 0.8 * (y - SIZE / 2) - 0.6 * (x - SIZE / 2)
    if spacing is not None:
        across = np.hypot(across, (along + spacing / 2) % spacing - spacing / 2)
    return np.repeat(np.float32(0.5 * np.exp(-0.5 * across**2))[..., None], 4, axis=2)


def measured(image: beads.Image) -> dict:
    truth = hair(None)
    tally = beads.Tally()
    tally.add(image, truth, beads.stray_pixels(truth[..., 3]), 1)
    return tally.row(SIZE, "hair")


def test_a_line_has_no_change_along_it_and_beads_have() -> None:
    assert measured(hair(None)) == pytest.approx(
        {"size": SIZE, "picture": "hair", "along": 0, "matte": 0, "coverage": 1, "views": 1, "pixels": 1170}, abs=0.01)
    assert measured(0.5 * hair(None))["along"] < 0.01  # faint, but a line
    shares = [measured(hair(spacing))["along"] for spacing in (2, 3, 4, 6)]
    assert shares == sorted(shares)
    assert shares[0] < 0.02 < 0.4 < shares[3]
    assert measured(hair(6))["coverage"] < 0.7


def test_hair_is_stray_where_it_is_thin_and_stands_free() -> None:
    matte = np.zeros((SIZE, SIZE), np.float32)
    matte[60:] = 1
    matte[50:60] = 0.3  # a fringe, whose uppermost row has little around them
    matte[20] = 0.3
    matte[30] = 1  # not thin
    rows = beads.stray_pixels(matte)[:, SIZE // 2]
    assert np.flatnonzero(rows).tolist() == [*range(18, 23), *range(48, 53)]


def test_the_square_with_the_most_stray_hair_and_little_else_lies_within_the_image() -> None:
    photograph, stray = np.zeros((SIZE, SIZE, 4), np.float32), np.zeros((SIZE, SIZE), bool)
    stray[-5:, 70:80] = True
    photograph[:, :60, 3] = 1  # another hair stands before this
    stray[10, :50] = True
    worth, (y, x) = beads.busiest(beads.View(None, photograph, stray))
    assert worth == 50
    assert y == SIZE - beads.CROP
    assert x == 58  # the hair in the middle
    assert stray[y:y + beads.CROP, x:x + beads.CROP].sum() == 50


def test_the_picture_shows_each_size_equally_large() -> None:
    images = {(size, name): np.zeros((size, size, 4), np.float32) for size in (SIZE, 3 * SIZE) for name in ("a", "b")}
    height, width, _ = beads.draw(images, (8, 40), SIZE).shape
    assert width == 2 * beads.CROP * beads.ENLARGED + 4
    assert height > 4 * beads.CROP * beads.ENLARGED


def test_the_table_compares_the_forms_at_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, output = tmp_path / "curls", tmp_path / "output"
    scene.mkdir()
    with pytest.raises(ConfigError, match=r"has no recipe.json"):
        beads.main([str(scene), "--output", str(output)])
    (scene / "recipe.json").touch()
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], (SIZE, SIZE))
    views = [beads.View(Sample(f"0/img_{n:04d}.png", 0, n, camera, torch.zeros(5, SIZE, SIZE)), hair(None),
                        beads.stray_pixels(hair(None)[..., 3])) for n in (5, 3)]
    trained: dict[str, list[str]] = {}

    def train(scene: Path, folder: Path, args: argparse.Namespace) -> Path:
        trained[folder.name] = args.train
        return folder / "nr_model_4.pth"

    def larger(image: beads.Image, size: int) -> beads.Image:
        return image.repeat(size // SIZE, 0).repeat(size // SIZE, 1)

    monkeypatch.setattr(beads, "train", train)
    monkeypatch.setattr(beads, "load", lambda file, *args: file.parent.name)
    monkeypatch.setattr(beads, "read_views", lambda scene, model, device: views)
    monkeypatch.setattr(beads, "ray_trace", lambda *args: larger(hair(None), 3 * SIZE))
    monkeypatch.setattr(beads, "render",
                        lambda model, cameras: larger(hair(None if model == "strands" else 6), cameras.size[0]))
    beads.main([str(scene), "--epochs", "4", "--output", str(output), "--image", str(tmp_path / "beads.jpg")])
    assert trained["strands"][:4] == ["SOLVER.MAX_EPOCHS", "4", "MODEL.FORM", "strands"]
    found = json.loads((output / "beads.json").read_text())
    rows = {(row["size"], row["picture"]): row for row in found["rows"]}
    assert list(rows) == [(size, name) for size in (SIZE, 3 * SIZE) for name in ("truth", "strands", "blended")]
    assert [row["views"] for row in rows.values()] == [2, 2, 2, 1, 1, 1]
    assert rows[SIZE, "strands"]["matte"] == 0 < rows[SIZE, "blended"]["matte"]
    command = "python benchmarks/beads.py datasets/curls --epochs 4 --views 1 --samples 64"
    assert found["environment"]["command"] == command
    assert (tmp_path / "beads.jpg").stat().st_size > 1000
