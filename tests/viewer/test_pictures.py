# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from npcr.io.camera_path_files import make_cameras
from npcr.rendering.frames import render_path
from npcr.viewer.pictures import MODES, Engine, background_pixels, compare, png_bytes
from tests.path_stub import PlaneRenderer
from tests.viewer.models import POSE, VIEW, small_model


def test_color_is_what_render_writes() -> None:
    renderer = small_model()
    frame = next(render_path(renderer, make_cameras([POSE], [30.0], (48, 36)), gray=0.25, blender=None))
    engine = Engine(renderer)
    shown = engine.show(dataclasses.replace(VIEW, background=63.75))
    assert shown.seconds > 0
    np.testing.assert_allclose(shown.picture.astype(int), frame.picture, atol=1)
    np.testing.assert_allclose(engine.still(VIEW).astype(int), frame.rgba, atol=1)


def test_modes_show_what_they_say() -> None:
    engine = Engine(small_model())
    assert engine.modes == MODES
    pictures = {mode: engine.show(dataclasses.replace(VIEW, mode=mode)).picture for mode in MODES}
    rgba = engine.still(VIEW)
    assert (pictures["matte"] == rgba[..., 3:]).all()
    with engine.renderer.points_alone(), torch.inference_mode():
        alone = engine.renderer(make_cameras([POSE], [30.0], (48, 36)))
    np.testing.assert_allclose(pictures["coverage"][..., 0], 255 * alone.alpha[0, 0], atol=0.51)
    np.testing.assert_allclose(np.moveaxis(pictures["without network"], -1, 0),
                               255 * alone.color[0].clamp(0, 1), atol=0.51)
    assert np.abs(pictures["color"].astype(int) - pictures["without network"]).max() > 8
    depth = alone.depth[0].numpy()
    assert (pictures["depth"][depth == 0] == 0).all()
    near, far = (pictures["depth"][np.abs(depth - value) < 0.05].mean(axis=0)
                 for value in np.percentile(depth[depth > 0], [2, 98]))
    assert near[0] > near[2]  # red
    assert far[2] > far[0]  # blue


def test_a_form_that_needs_its_network_has_fewer_modes() -> None:
    engine = Engine(PlaneRenderer())
    assert engine.modes == ("color", "matte", "depth")
    with pytest.raises(ValueError, match="PlaneRenderer has no picture without its network"):
        engine.show(dataclasses.replace(VIEW, size=(24, 18), mode="coverage"))


def test_quick_frames_are_smaller_pictures_of_the_same() -> None:
    engine = Engine(small_model())
    full, quick = (engine.show(dataclasses.replace(VIEW, size=(96, 72)), scale).picture for scale in (1.0, 0.5))
    assert quick.shape == (36, 48, 3)
    averaged = full.reshape(36, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(averaged - quick).mean() < 12


def test_backgrounds_are_behind_color_alone() -> None:
    backdrop = np.zeros((10, 10, 3), np.uint8)
    backdrop[..., 1] = 200
    engine = Engine(small_model(width=0), backdrop)
    empty = engine.still(VIEW)[..., 3] == 0
    assert empty.any()

    def shown(background: float | str, mode: str = "color") -> np.ndarray:
        return engine.show(dataclasses.replace(VIEW, background=background, mode=mode)).picture[empty]

    assert (shown(37.0) == 37).all()
    assert (shown("picture") == [0, 200, 0]).all()
    assert set(np.unique(shown("checker"))) == {102, 153}
    assert (shown(200.0, "matte") == 0).all()
    assert (background_pixels("picture", (4, 4)) == np.float32(128 / 255)).all()  # without a picture: gray


def test_frames_of_the_scene() -> None:
    engine = Engine(small_model(frames=2))
    first, second = (engine.show(dataclasses.replace(VIEW, frame=frame)).picture for frame in (0, 1))
    assert np.abs(first.astype(int) - second).max() > 50


def test_comparison() -> None:
    photograph, rendering = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), 70, np.uint8)
    rendering[0, 0] = 250
    assert compare(photograph, rendering)[:, ::3, 0].tolist() == [[100, 250, 255], [100, 70, 60]]


def test_a_still_is_a_png_with_alpha() -> None:
    rgba = Engine(small_model()).still(VIEW)
    read = Image.open(io.BytesIO(png_bytes(rgba)))
    assert read.mode == "RGBA"
    assert (np.asarray(read) == rgba).all()
