# SPDX-License-Identifier: Apache-2.0
"""Captures damaged at random: what is imported is what the files say, or the damage is refused or warned about.

NPCR_MUTATIONS=N tries so many for each importer; NPCR_MUTATION_SEED=S tries one, to look into it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from npcr.config import load_config
from npcr.errors import NpcrError
from npcr.importers.base import Capture
from npcr.importers.colmap import read_colmap
from npcr.importers.metashape import read_metashape
from npcr.importers.nhr import read_nhr
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.camera_files import read_cam_poses, read_intrinsics
from npcr.io.images import read_image
from npcr.io.points import read_points
from tests.importers.mutations import captures, damage, readers

FEW, MANY = 40, 2000


@dataclass(frozen=True)
class Kind:
    """An importer under test."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Capture]
    plainly: Callable[[Path], readers.Views]  # what the description says
    damage: tuple[damage.Damage, ...]
    plain_points: Callable[[Path], np.ndarray] = lambda _: np.hstack([captures.POINTS, captures.COLORS])


def _read_metashape(folder: Path) -> Capture:
    capture = read_metashape(folder / "cameras.xml", masks=folder / "masks")
    return replace(capture, clouds=[folder / "cloud.ply"])  # as --points does


KINDS = {
    "transforms": Kind(captures.write_transforms, read_transforms, readers.read_transforms,
                       damage.COMMON + damage.TEXT + damage.JSON),
    "colmap-text": Kind(lambda folder: captures.write_colmap(folder, binary=False), read_colmap,
                        readers.read_colmap_text, damage.COMMON + damage.TEXT, readers.read_colmap_text_points),
    "colmap-binary": Kind(lambda folder: captures.write_colmap(folder, binary=True), read_colmap,
                          readers.read_colmap_binary, damage.COMMON, readers.read_colmap_binary_points),
    "metashape": Kind(captures.write_metashape, _read_metashape, readers.read_metashape,
                      damage.COMMON + damage.TEXT + (damage.change_xml,) * 8 + (damage.change_the_cloud,)),
    "nhr": Kind(captures.write_nhr, read_nhr, readers.read_nhr,
                damage.COMMON + damage.TEXT + (damage.change_the_cloud,)),
}


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def run_import(kind: Kind, source: Path, scene: Path) -> tuple[str | None, list[str]]:
    """Import; return the error's text, or None, and the warnings."""
    handler = _Warnings()
    logger = logging.getLogger("npcr")
    logger.addHandler(handler)
    try:
        capture = kind.read(source)
        if capture.missing:  # the script says so
            handler.messages.append(f"{len(capture.missing)} are missing")
        handler.messages += capture.cloud_remarks  # likewise
        if not capture.clouds:
            handler.messages.append("no cloud")
        import_capture(capture, scene, workers=1)
    except NpcrError as error:
        return str(error), handler.messages
    finally:
        logger.removeHandler(handler)
    return None, handler.messages


def _identity(color: np.ndarray) -> int:
    return int(np.argmin([np.abs(color - np.array(captures.color_of(i))).sum() for i in range(captures.COUNT)]))


def differences(scene: Path, expected: dict[int, readers.View], points: np.ndarray) -> list[str]:
    """What a scene has other than the expected views, by the photographs' identities, and the cloud and mattes."""
    config = load_config(scene / "scene.yml")
    found: list[str] = []
    seen: list[int] = []
    for split, folder in (("train", scene), ("test", scene / "test"), ("val", scene / "val")):
        if not folder.is_dir():
            continue
        poses, matrices = read_cam_poses(folder / "CamPose.inf"), read_intrinsics(folder / "Intrinsic.inf")
        images = [file for file in sorted((folder / "img" / "0").iterdir()) if "_alpha" not in file.name]
        for number, file in enumerate(images):
            pixels = read_image(file)
            identity = _identity(pixels[..., :3].reshape(-1, 3).max(axis=0))
            seen.append(identity)
            if identity not in expected:
                found.append(f"photograph {identity} should not be there")
                continue
            view, matrix = expected[identity], matrices[number if len(matrices) > 1 else 0]
            if view.split != split:
                found.append(f"photograph {identity} is in {split}")
            if np.abs(poses[number] - view.pose).max() > 2e-3 * max(1.0, np.abs(view.pose[:3, 3]).max()):
                found.append(f"the pose of photograph {identity}")
            numbers = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
            if np.abs(np.array(numbers) - (*view.focal, *view.center)).max() > 1e-3 * max(view.focal):
                found.append(f"the intrinsics of photograph {identity}")
            matte = file.with_name(f"{file.stem}_alpha.png")
            alpha = read_image(matte)[..., 0] if matte.exists() else pixels[..., 3] if pixels.shape[2] == 4 else None
            if alpha is None:
                found.append(f"the matte of photograph {identity}")
            elif ((alpha > 127) != (np.arange(len(alpha)) < captures.rows_of(identity))[:, None]).any():
                found.append(f"what the matte of photograph {identity} says")
    found += [f"photograph {i} is lost" for i in expected if i not in seen]
    if len(set(seen)) < len(seen):
        found.append("a photograph is there twice")
    if not config.DATASETS.MASK:
        found.append("mattes are lost")
    return found + _cloud_differences(scene, points)


def _cloud_differences(scene: Path, points: np.ndarray) -> list[str]:
    file = scene / "pointclouds" / "frame1.ply"
    if not file.exists():
        return ["the cloud is lost"]
    cloud = read_points(file)
    if len(cloud) != len(points) or not np.allclose(cloud.positions, points[:, :3], rtol=1e-5, atol=1e-5):
        return ["the points"]
    return [] if cloud.colors is not None and (cloud.colors == points[:, 3:]).all() else ["the points' colors"]


def _expected(views: readers.Views) -> dict[int, readers.View]:
    """{photograph's identity: view}; raises where a photograph is not there."""
    return {_identity(read_image(path)[..., :3].reshape(-1, 3).max(axis=0)): view for path, view in views.items()}


def _verdict(kind: Kind, source: Path, scene: Path, intact: dict[int, readers.View]) -> str | None:
    """What is wrong with the import of a damaged capture; None where nothing is."""
    error, warnings = run_import(kind, source, scene)
    if error is not None:
        named = any(part in error for part in (str(source), "--", *(f.name for f in source.rglob("*"))))
        return None if named and "\n" not in error.strip() else f"refused without a name: {error}"
    if warnings:
        return None
    wrong = differences(scene, intact, np.hstack([captures.POINTS, captures.COLORS]))
    if not wrong:
        return None
    try:
        plain, points = _expected(kind.plainly(source)), kind.plain_points(source)
    except readers.NotJudged:
        return None
    except Exception as malformed:
        return f"silently wrong ({'; '.join(wrong)}), where the file is malformed: {malformed!r}"
    wrong = differences(scene, plain, points)
    return f"silently wrong: {'; '.join(wrong)}" if wrong else None


def _try(name: str, seeds: range, folder: Path) -> list[str]:
    kind = KINDS[name]
    pristine = kind.write(folder / "pristine")
    intact = _expected(kind.plainly(pristine))
    assert set(intact) == set(range(captures.COUNT))
    failures = []
    for seed in seeds:
        rng = np.random.default_rng([sorted(KINDS).index(name), seed])
        source, scene = folder / f"capture{seed}", folder / f"scene{seed}"
        shutil.copytree(pristine, source)
        names = []
        for _ in range(int(rng.integers(1, 3))):
            change = kind.damage[int(rng.integers(len(kind.damage)))]
            names.append(change.__name__)
            try:
                change(source, rng)
            except (LookupError, ValueError, TypeError, AttributeError, OSError, StopIteration, cv2.error):
                break  # an earlier damage left nothing to damage
        verdict = _verdict(kind, source, scene, intact)
        if verdict is not None:
            failures.append(f"{name}, seed {seed} ({', '.join(names)}): {verdict}")
        if len(seeds) > 1:
            shutil.rmtree(source)
            shutil.rmtree(scene, ignore_errors=True)
    return failures


@pytest.mark.parametrize("name", KINDS)
def test_an_intact_capture_comes_out_right_without_a_word(name: str, tmp_path: Path) -> None:
    _skip_without_reader(name)
    kind = KINDS[name]
    source = kind.write(tmp_path / "capture")
    error, warnings = run_import(kind, source, tmp_path / "scene")
    assert (error, warnings) == (None, [])
    assert differences(tmp_path / "scene", _expected(kind.plainly(source)), kind.plain_points(source)) == []


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damage_is_right_or_refused_or_said(name: str, count: int, tmp_path: Path) -> None:
    _skip_without_reader(name)
    one = os.environ.get("NPCR_MUTATION_SEED")
    seeds = range(int(one), int(one) + 1) if one else range(int(os.environ.get("NPCR_MUTATIONS", count)))
    failures = _try(name, seeds, tmp_path)
    assert not failures, f"{len(failures)} of {len(seeds)}:\n" + "\n".join(failures[:20])


def _skip_without_reader(name: str) -> None:
    if name.startswith("colmap"):
        pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")
