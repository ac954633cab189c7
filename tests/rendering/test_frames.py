# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from npcr.config import changed, default_config
from npcr.factory import build_blender
from npcr.rendering.frames import FramePixels, RawPixels, render_path
from npcr.temporal import Blender, DefaultBlender, LegacyBlender
from tests.late_copies import LateCopy
from tests.path_stub import PlaneRenderer, orbit

WEIGHTS = [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02]


def render(renderer: PlaneRenderer, count: int = 3, blender: Blender | None = None, gray: float = 0.25,
           step: float = 0.05) -> list[FramePixels]:
    return list(render_path(renderer, orbit(count, step), gray=gray, blender=blender, raw=True))


def numbers(frame: FramePixels) -> RawPixels:
    assert frame.raw is not None
    return frame.raw


def test_frames_are_rendered_one_by_one_without_gradients() -> None:
    renderer = PlaneRenderer().train()
    path = render_path(renderer, orbit(5), gray=0.0, blender=None, frame=2)
    assert renderer.calls == []
    next(path)
    assert renderer.calls == [(1, 2, False, False)]
    assert len(list(path)) == 4


def test_default_color_is_premultiplied() -> None:
    frame = render(PlaneRenderer(alpha=0.5))[1]
    raw = numbers(frame)
    assert raw.rgb.dtype == raw.alpha.dtype == raw.depth.dtype == np.float32
    assert raw.rgb.shape == (18, 24, 3)
    assert raw.alpha.shape == raw.depth.shape == (18, 24)
    assert (raw.depth[:, :4] == 0).all()
    assert (raw.depth[:, 4:] == 2).all()
    over = raw.rgb + (1 - raw.alpha[..., None]) * 0.25
    assert np.abs(frame.picture - over * 255).max() < 0.51
    assert np.abs(frame.rgba[:, 4:, :3] - raw.rgb[:, 4:] / 0.5 * 255).max() < 0.51
    assert (frame.rgba[:, 4:, 3] == 128).all()
    assert (frame.rgba[:, :4] == 0).all()
    assert (frame.picture[:, :4] == 64).all()


def test_legacy_color_is_straight() -> None:
    frame = render(PlaneRenderer(legacy=True, alpha=0.5))[1]
    raw = numbers(frame)
    over = raw.rgb * raw.alpha[..., None] + (1 - raw.alpha[..., None]) * 0.25
    assert np.abs(frame.picture - over * 255).max() < 0.51
    assert np.abs(frame.rgba[:, 4:, :3] - raw.rgb[:, 4:] * 255).max() < 0.51


def test_raw_numbers_are_neither_clamped_nor_blended() -> None:
    renderer = PlaneRenderer(alpha=1.0, flicker=0.02)
    renderer.brightness.data.fill_(3.0)
    blended = render(renderer, 3, DefaultBlender(3, 1e9, 0.02, 20))
    renderer.calls.clear()
    single = render(renderer, 3)
    assert numbers(blended[2]).rgb.max() > 1.5
    assert np.array_equal(numbers(blended[2]).rgb, numbers(single[2]).rgb)
    assert blended[2].picture.max() == 255


def test_raw_numbers_come_only_where_they_are_asked_for() -> None:
    frame = next(render_path(PlaneRenderer(), orbit(1), gray=0.25, blender=None))
    assert frame.raw is None
    assert np.array_equal(frame.picture, render(PlaneRenderer(), 1)[0].picture)


def test_a_gpu_has_begun_the_next_frame_when_one_is_yielded(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render(PlaneRenderer(), 4)
    monkeypatch.setattr(PlaneRenderer, "device", torch.device("cuda"))
    monkeypatch.setattr("npcr.cameras.Cameras.to", lambda cameras, device: cameras)
    monkeypatch.setattr("npcr.rendering.frames.HostCopy", LateCopy)
    renderer = PlaneRenderer()
    path = render_path(renderer, orbit(4), gray=0.25, blender=None, raw=True)
    frames = [next(path)]
    assert len(renderer.calls) == 2
    frames.extend(path)
    assert len(frames) == 4
    for frame, same in zip(frames, expected, strict=True):
        assert np.array_equal(frame.rgba, same.rgba)
        assert np.array_equal(numbers(frame).depth, numbers(same).depth)


@pytest.mark.parametrize("legacy", [False, True])
def test_default_blending_steadies_picture_and_matte(legacy: bool) -> None:
    def unrest(blender: Blender | None) -> float:
        shown = render(PlaneRenderer(legacy, flicker=0.05), 12, blender, step=0.0)
        return float(np.abs(np.diff([f.rgba[5, 10, :3].astype(float) for f in shown], axis=0)).mean())

    assert unrest(DefaultBlender(3, 22, 0.02, 20)) < 0.6 * unrest(None)


def test_legacy_blending_leaves_the_matte_as_rendered() -> None:
    def shown(blender: Blender | None) -> list[FramePixels]:
        return render(PlaneRenderer(legacy=True, flicker=0.05), 8, blender, step=0.0)

    single, blended = shown(None), shown(LegacyBlender(WEIGHTS, 8000))
    assert all(np.array_equal(a.rgba, b.rgba) for a, b in zip(single, blended, strict=True))
    same = [np.array_equal(a.picture, b.picture) for a, b in zip(single, blended, strict=True)]
    assert same == [True] * 5 + [False] * 3


def test_build_blender() -> None:
    cfg = default_config()
    default = build_blender(cfg)
    assert isinstance(default, DefaultBlender)
    assert (default.history, default.color_tolerance, default.depth_tolerance, default.angle) == (3, 22, 0.02, 20)
    legacy = build_blender(changed(cfg, TEMPORAL__BLEND="legacy"))
    assert isinstance(legacy, LegacyBlender)
    assert (legacy.weights, legacy.color_threshold) == (WEIGHTS, 8000)
    assert build_blender(changed(cfg, TEMPORAL__BLEND="off")) is None
