# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from npcr.config import load_config
from npcr.errors import MissingExtraError, SceneError
from npcr.importers.matting import Matting, matte_from_background, matte_from_trimap
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.images import read_image, read_matte, write_image
from tests.captures import SIZE, write_transforms

GREEN = (10, 200, 20)


def disc() -> tuple[np.ndarray, np.ndarray]:
    """A red disc over green, 4 pixels soft at its edge: picture (H, W, 3) and its true alpha (H, W)."""
    y, x = np.mgrid[:SIZE[1], :SIZE[0]]
    alpha = np.clip((12 - np.hypot(x - 24, y - 18)) / 4 + 0.5, 0, 1)
    picture = alpha[..., None] * np.array([220, 30, 40]) + (1 - alpha[..., None]) * np.array(GREEN)
    return np.rint(picture).astype(np.uint8), alpha


def test_keying_finds_object_and_background():
    picture, alpha = disc()
    matte = matte_from_background(picture, Matting(GREEN, (20, 60)))
    assert (matte[alpha == 0] == 0).all()
    assert (matte[alpha > 0.6] == 255).all()
    assert ((matte > 0) & (matte < 255)).any()


def test_a_keyed_import_is_composited_over_its_background(tmp_path):
    folder = write_transforms(tmp_path / "capture")
    for i in range(4):
        write_image(folder / "images" / f"{i}.png", disc()[0])
    import_capture(read_transforms(folder), tmp_path / "scene", matting=Matting(GREEN))
    cfg = load_config(tmp_path / "scene/scene.yml")
    assert cfg.DATASETS.ALPHA_MODE == "composited"
    assert tuple(cfg.DATASETS.ALPHA_BACKGROUND) == GREEN
    assert cfg.DATASETS.MASK is True
    place = tmp_path / "scene/img/0"
    np.testing.assert_array_equal(read_image(place / "img_0001.png"), disc()[0])
    assert set(np.unique(read_matte(place / "img_0001_alpha.png"))) >= {0, 255}


def _trimaps(folder: Path) -> np.ndarray:
    _, alpha = disc()
    trimap = np.where(alpha == 0, 0, np.where(alpha == 1, 255, 128)).astype(np.uint8)
    for i in range(4):
        write_image(folder / f"{i}.png", trimap)
    return trimap


@pytest.mark.slow  # pymatting compiles for a minute when it is first imported
def test_a_trimap_is_solved_for_alpha_and_color(tmp_path):
    pytest.importorskip("pymatting", reason="pymatting (npcr[matting]) is not installed")
    folder = write_transforms(tmp_path / "capture")
    for i in range(4):
        write_image(folder / "images" / f"{i}.png", disc()[0])
    _trimaps(tmp_path / "trimaps")
    import_capture(read_transforms(folder), tmp_path / "scene", matting=Matting(trimaps=tmp_path / "trimaps"))
    alpha = disc()[1]
    place = tmp_path / "scene/img/0"
    matte = read_matte(place / "img_0002_alpha.png") / 255
    assert np.abs(matte - alpha).mean() < 0.01
    soft = (alpha > 0.3) & (alpha < 0.9)
    assert np.abs(read_image(place / "img_0002.png")[soft].astype(int) - [220, 30, 40]).mean() < 15
    assert load_config(tmp_path / "scene/scene.yml").DATASETS.ALPHA_MODE == "straight"


def test_trimaps_that_do_not_serve_are_named(tmp_path, monkeypatch):
    folder = write_transforms(tmp_path / "capture")
    trimap = _trimaps(tmp_path / "trimaps")
    (tmp_path / "trimaps/2.png").unlink()
    with pytest.raises(SceneError, match=r"has no trimap for 1 of 4 photographs, first .*2.png; looked for 2.png.png"):
        import_capture(read_transforms(folder), tmp_path / "scene", matting=Matting(trimaps=tmp_path / "trimaps"))
    with pytest.raises(SceneError, match="no such folder of trimaps"):
        Matting(trimaps=tmp_path / "none")
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(MissingExtraError, match=r"npcr\[matting\]"):
        matte_from_trimap(disc()[0], trimap, Path("t.png"))


def test_a_trimap_needs_both_certainties():
    with pytest.raises(SceneError, match=r"t.png: a trimap needs black pixels"):
        matte_from_trimap(disc()[0], np.full((SIZE[1], SIZE[0]), 255, np.uint8), Path("t.png"))


@pytest.mark.parametrize(("values", "message"), [
    ({"background": GREEN, "tolerance": (60, 20)}, "--tolerance is 60 20"),
    ({"background": (0, 300, 0)}, "within 0-255"), ({}, "give one of them"),
    ({"background": GREEN, "trimaps": Path(".")}, "give one of them"),
])
def test_settings_are_checked(values, message):
    with pytest.raises(SceneError, match=message):
        Matting(**values)


def test_no_mask_contradicts_making_one(tmp_path):
    folder = write_transforms(tmp_path / "capture")
    with pytest.raises(SceneError, match="--no-mask"):
        import_capture(read_transforms(folder), tmp_path / "scene", mask=False, matting=Matting(GREEN))
