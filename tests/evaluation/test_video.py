# SPDX-License-Identifier: Apache-2.0
"""A striped plane of known depth as the renderer: what is steady, what is planted, what the truth says."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.cameras import Cameras, unproject
from npcr.data.path_ground_truth import PathGroundTruth
from npcr.evaluation.video import GROUND_TRUTH, evaluate_video, fan_out
from npcr.evaluation.video_plots import plot_scores, write_slices
from npcr.evaluation.video_report import fine_orbit, format_report
from npcr.io.images import read_image, write_image
from npcr.renderers.layered import RenderOutput
from npcr.rendering.frames import frame_from_output
from npcr.temporal import DefaultBlender
from tests.path_stub import SIZE, PlaneRenderer, orbit

FLICKER = 0.05


def blenders() -> dict[str, DefaultBlender | None]:
    return {"off": None, "default": DefaultBlender(3, 22, 0.02, 20)}


def write_truth(folder: Path, count: int, step: float) -> PathGroundTruth:
    """What the renderer shows when it does not flicker, in files."""
    folder.mkdir()
    for index in range(count):
        camera = orbit(count, step)[index]
        with torch.no_grad():
            frame = frame_from_output(PlaneRenderer(alpha=1.0)(camera), camera)
        pixels = frame.image[0].permute(1, 2, 0).numpy()
        write_image(folder / f"img_{index + 1:04d}.png", pixels)
        position = unproject(frame.depth, camera)[0].permute(1, 2, 0).numpy().copy()
        position[frame.depth[0].numpy() == 0] = np.nan
        np.savez(folder / f"geometry_{index + 1:04d}.npz", position=position, depth=frame.depth[0].numpy())
    return PathGroundTruth(folder, count, SIZE)


def test_without_truth_only_steadiness_is_measured() -> None:
    scores = evaluate_video(PlaneRenderer(flicker=FLICKER, alpha=1.0), orbit(6, 0.0), blenders(), gray=1.0,
                            progress=False)
    assert set(scores.per_frame) == {"off", "default"}
    assert set(scores.per_frame["off"]) == {"warp_error_own", "flicker"}
    assert scores.per_frame["off"]["warp_error_own"][0] is None
    assert scores.per_frame["off"]["warp_error_own"][1:] == pytest.approx([2 * FLICKER] * 5, abs=1e-4)
    assert (scores.per_frame["off"]["flicker"][0], scores.per_frame["off"]["flicker"][-1]) == (None, None)
    assert scores.per_frame["off"]["flicker"][1:-1] == pytest.approx([2 * FLICKER] * 4, abs=1e-4)
    assert scores.means()["default"]["flicker"] < FLICKER
    assert scores.render_seconds > 0
    assert set(scores.blend_seconds) == {"off", "default"}


def test_a_constant_scene_reads_zero_and_equals_its_truth(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "path", 5, 2 / 24)  # a pixel a frame: nothing is sampled between pixels
    scores = evaluate_video(PlaneRenderer(alpha=1.0), orbit(5, 2 / 24), blenders(), gray=1.0, ground_truth=truth,
                            progress=False)
    means = scores.means()
    assert set(means["off"]) == {"psnr", "ssim", "warp_error", "warp_error_own", "flow_error", "flicker",
                                 "second_difference_error"}
    assert set(means[GROUND_TRUTH]) == {"warp_error", "flicker"}
    for metric in ("warp_error_own", "warp_error", "flicker"):
        assert means["off"][metric] < 1e-5
    assert means["off"]["second_difference_error"] < 4 / 255  # the truth is rounded
    assert means["off"]["psnr"] > 50
    assert means[GROUND_TRUTH]["warp_error"] < 1 / 255
    assert means[GROUND_TRUTH]["flicker"] < 1 / 255
    assert [picture.shape for picture in scores.pictures[GROUND_TRUTH]] == [(18, 24, 3)] * 5


def test_blending_comes_closer_to_the_truth_of_a_flickering_renderer(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "path", 8, 2 / 24)
    renderer = PlaneRenderer(flicker=FLICKER, alpha=1.0)
    means = evaluate_video(renderer, orbit(8, 2 / 24), blenders(), gray=1.0, ground_truth=truth, progress=False).means()
    assert means["off"]["second_difference_error"] == pytest.approx(4 * FLICKER, rel=0.1)
    for metric in ("warp_error", "second_difference_error", "flicker"):
        assert means["default"][metric] < 0.7 * means["off"][metric]
    assert means["default"]["psnr"] > means["off"]["psnr"] + 1


def test_readers_of_one_stream_keep_what_lies_between_them() -> None:
    class Item:
        pass

    items = [Item() for _ in range(9)]
    alive = [weakref.ref(item) for item in items]

    def source() -> Iterator[Item]:
        while items:
            yield items.pop(0)

    first, second = fan_out(source(), 2)
    order = [next(first) for _ in range(3)]
    assert next(second) is order[0]
    assert len(items) == 6
    del order
    gc.collect()
    assert [one() is None for one in alive[:3]] == [True, False, False]
    assert len(list(second)) == 8
    assert len(list(first)) == 6


def test_looking_ahead_is_not_blending_s_time() -> None:
    class Slow(PlaneRenderer):
        def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
            time.sleep(0.05)
            return super().forward(cameras, frame)

    scores = evaluate_video(Slow(), orbit(6), blenders(), gray=1.0, progress=False)
    assert scores.render_seconds > 0.05
    assert 0 < scores.blend_seconds["default"] < 0.04


def test_report_pictures(tmp_path: Path) -> None:
    scores = evaluate_video(PlaneRenderer(flicker=FLICKER), orbit(4), blenders(), gray=1.0, progress=False)
    plot_scores(tmp_path / "curves.png", scores)
    curves = read_image(tmp_path / "curves.png")
    assert curves.shape[1] == 640
    key = (curves == (230, 120, 60)).all(axis=-1)  # the first blending's color
    assert key[:22].sum() == 11 * 7  # in the legend
    assert np.abs(curves[22:].astype(int) - (230, 120, 60)).max(axis=-1).min() < 40  # and, thinner, as a curve
    row = write_slices(tmp_path / "slices.png", scores.pictures)
    slices = read_image(tmp_path / "slices.png")
    first = scores.pictures["off"]
    bar = 22
    assert np.array_equal(slices[bar], first[0][row].repeat(25, axis=0))
    assert np.array_equal(slices[bar + 3 * 30], first[3][row].repeat(25, axis=0))
    assert write_slices(tmp_path / "slices.png", scores.pictures, row=2) == 2


def test_the_fine_orbit_keeps_its_distance_and_starts_where_the_path_does() -> None:
    start = orbit(1)[0]
    cameras = fine_orbit(start, np.array([0.0, 0.0, 2.0]))
    assert torch.allclose(cameras.cam_to_world[0], start.cam_to_world[0], atol=1e-6)
    centers = cameras.cam_to_world[:, :3, 3]
    assert (centers - torch.tensor([0.0, 0.0, 2.0])).norm(dim=1).numpy() == pytest.approx(2.0, abs=1e-5)
    step = (centers[1:] - centers[:-1]).norm(dim=1).numpy()
    assert step == pytest.approx(2 * 2 * math.sin(math.radians(0.25) / 2), rel=1e-3)


def test_the_table_has_a_row_for_each_blending() -> None:
    report = {"paths": {"path": {"frames": 3, "mean": {"off": {"psnr": 20.0}, "truth": {"warp_error": 0.01}},
                                 "seconds": {"render": 0.2, "blend": {"off": 0.0, "default": 0.01}}}}}
    *table, cost = format_report(report).splitlines()
    assert [line.split() for line in table] == [
        ["path,", "3", "frames", "psnr", "warp_error"], ["off", "20"], ["truth", "0.01"]]
    assert cost.strip() == "0.200 s to render a frame; to show it, of that: off 0.0%, default 5.0%"
