# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from npcr.cameras import Cameras
from npcr.config import explicit_keys, load_config
from npcr.data.samples import SceneDataset
from npcr.data.scene import load_scene
from npcr.evaluation.contact_sheet import sheet_row, write_contact_sheet
from npcr.evaluation.views import ViewPictures, ViewScore, evaluate_views, format_scores, mean_scores
from npcr.factory import load_renderer
from npcr.io.images import read_image
from npcr.metrics.image import psnr, ssim
from npcr.renderers import Renderer, RenderOutput
from npcr.visualization.captions import CAPTION_HEIGHT, GAP
from tests.late_copies import LateCopy
from tests.scenes import SIZE, photograph, write_tiny_scene
from tests.stub_renderer import StubRenderer

CAMERAS, FRAMES = 4, 2
ALL = [(frame, camera) for frame in range(FRAMES) for camera in range(CAMERAS)]


class Photographer(StubRenderer):
    """Renders exactly what the photographs show, changed by `change`; remembers how it was called."""

    def __init__(self, views: SceneDataset, legacy: bool = False) -> None:
        super().__init__(legacy)
        self.views = views
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[int, int]] = []  # cameras, frame
        self.modes: set[tuple[bool, bool]] = set()  # training, gradients

    def change(self, rgb: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        return rgb, alpha

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        self.calls.append((len(cameras), frame))
        self.modes.add((self.training, torch.is_grad_enabled()))
        poses = self.views.scene.cameras.cam_to_world
        which = [int((poses - pose).abs().sum((1, 2)).argmin()) for pose in cameras.cam_to_world]
        target = torch.stack([self.views.sample(frame, camera).target for camera in which])
        rgb, alpha = self.change(target[:, :3], target[:, 3:4])
        if self.legacy:
            return self.output(rgb + self.weight, alpha, alpha[:, 0])
        return RenderOutput(rgb + self.weight, alpha, *[alpha[:, 0]] * 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "s", cameras=CAMERAS, frames=FRAMES)


def open_views(folder: Path, legacy: bool = False, workers: int = 0) -> SceneDataset:
    scene = load_scene(folder, size_raw=SIZE, frame_num=FRAMES, mask=True, center=[])
    return SceneDataset(scene, size=SIZE, legacy=legacy, workers=workers)


def run(
    renderer: Renderer, views: SceneDataset, which: list[tuple[int, int]] = ALL, **options: object
) -> list[ViewScore]:
    return evaluate_views(renderer, views, which, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_photographs_themselves_score_perfectly(folder: Path, legacy: bool) -> None:
    views = open_views(folder, legacy)
    scores = run(Photographer(views, legacy), views)
    assert [(score.frame, score.camera) for score in scores] == ALL
    assert scores[5].name == "1/img_0002.png"
    for score in scores:
        assert (score.psnr, score.alpha_mae, score.alpha_sad) == (math.inf, 0, 0)
        assert score.ssim == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
def test_color_is_compared_premultiplied_over_black(folder: Path, legacy: bool) -> None:
    views = open_views(folder, legacy)
    renderer = Photographer(views, legacy)
    renderer.change = lambda rgb, alpha: (rgb * 0.5, alpha)  # type: ignore[method-assign]
    for camera, score in enumerate(run(renderer, views)[:CAMERAS]):
        pixels = photograph(camera).astype(np.float64) / 255
        target = pixels[..., :3] * pixels[..., 3:]
        error = np.square(target / 2).mean()
        assert score.psnr == pytest.approx(
            -10 * math.log10(error), abs=0.05
        )  # the views' color is 8 bits deep
        assert score.alpha_mae == 0


def test_scores_that_come_late_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = open_views(folder)
    seen: list[list[tuple[ViewScore, Tensor]]] = []
    for _ in range(2):
        seen.append([])
        add = seen[-1].append
        run(Photographer(views), views, batch=3, on_view=lambda score, shown, add=add: add((score, shown.rendered)))
        monkeypatch.setattr("npcr.evaluation.views.HostCopy", LateCopy)
    assert [score for score, _ in seen[0]] == [score for score, _ in seen[1]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*seen, strict=True))
    assert len(seen[1]) == len(ALL)


def test_values_beyond_the_range_are_clipped(folder: Path) -> None:
    views = open_views(folder)
    renderer = Photographer(views)
    renderer.change = lambda rgb, alpha: (torch.full_like(rgb, -3.0), alpha * 7 - 2)  # type: ignore[method-assign]
    score = run(renderer, views, [(0, 0)])[0]
    target = views.sample(0, 0).target
    assert score.psnr == pytest.approx(
        psnr(torch.zeros(1, 3, *SIZE[::-1]), target[None, :3]).item(), abs=1e-4
    )
    expected = ((target[3] * 7 - 2).clamp(0, 1) - target[3]).abs()
    assert score.alpha_mae == pytest.approx(expected.mean().item(), abs=1e-6)
    assert score.alpha_sad == pytest.approx(expected.sum().item() / 1000, abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_one_frame_and_change_nothing(folder: Path, workers: int) -> None:
    views = open_views(folder, workers=workers)

    def blurred(rgb: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        return (rgb + rgb.roll(1, -1)) / 2, (alpha + alpha.roll(1, -1)) / 2

    renderer = Photographer(views)
    renderer.change = blurred  # type: ignore[method-assign]
    one_by_one = run(renderer, views)
    assert renderer.calls == [(1, frame) for frame, _ in ALL]
    renderer.calls.clear()
    together = run(renderer, views, batch=3)
    assert renderer.calls == [(3, 0), (1, 0), (3, 1), (1, 1)]
    assert [score.name for score in together] == [score.name for score in one_by_one]
    for a, b in zip(together, one_by_one, strict=True):
        assert (a.psnr, a.ssim, a.alpha_mae) == pytest.approx((b.psnr, b.ssim, b.alpha_mae), rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_renderer_is_in_eval_mode_only_meanwhile(folder: Path, training: bool) -> None:
    views = open_views(folder)
    renderer = Photographer(views).train(training)
    run(renderer, views)
    assert renderer.modes == {(False, False)}
    assert renderer.training is training

    def fail(rgb: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("the disk is full")

    renderer.change = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        run(renderer, views)
    assert renderer.training is training


def test_on_view_gets_every_view_in_order(folder: Path) -> None:
    views = open_views(folder)
    seen: list[tuple[str, ViewPictures]] = []
    renderer = Photographer(views)
    renderer.change = lambda rgb, alpha: (rgb, 1 - alpha)  # type: ignore[method-assign]
    scores = run(
        renderer, views, batch=4, on_view=lambda score, pictures: seen.append((score.name, pictures))
    )
    assert [name for name, _ in seen] == [score.name for score in scores]
    target = views.sample(1, 3).target
    pictures = seen[-1][1]
    assert torch.equal(pictures.target, target[:3])
    assert torch.equal(pictures.rendered, target[:3])
    assert torch.equal(pictures.target_alpha, target[3:4])
    assert torch.equal(pictures.alpha, 1 - target[3:4])


SCORES = [
    ViewScore("0/img_0001.jpg", 0, 0, 20.0, 0.5, 0.125, 1.0),
    ViewScore("0/a.jpg", 0, 1, 30.0, 0.75, 0.0, 3.5),
]


def test_means_and_table() -> None:
    assert mean_scores(SCORES) == {"psnr": 25.0, "ssim": 0.625, "alpha_mae": 0.0625, "alpha_sad": 2.25}
    assert mean_scores([]) == {}
    assert format_scores(SCORES).splitlines() == [
        "view              PSNR    SSIM  alpha MAE  alpha SAD",
        "0/img_0001.jpg   20.00  0.5000    0.12500     1.0000",
        "0/a.jpg          30.00  0.7500    0.00000     3.5000",
        "mean             25.00  0.6250    0.06250     2.2500",
    ]


def test_contact_sheet_shows_each_picture_in_its_column(tmp_path: Path) -> None:
    width, height = 64, 40
    ramp = torch.linspace(0, 1, width).expand(3, height, width)
    pictures = ViewPictures(
        ramp, ramp.flip(2), torch.full((1, height, width), 0.2), torch.ones(1, height, width)
    )
    write_contact_sheet(tmp_path / "new" / "sheet.png", [sheet_row(score, pictures) for score in SCORES])
    sheet = read_image(tmp_path / "new" / "sheet.png")
    assert sheet.shape == (CAPTION_HEIGHT + 2 * (CAPTION_HEIGHT + height + GAP), 5 * (width + GAP), 3)
    for row in range(2):
        top = CAPTION_HEIGHT + row * (CAPTION_HEIGHT + height + GAP) + CAPTION_HEIGHT
        columns = [sheet[top : top + height, i * (width + GAP) : i * (width + GAP) + width] for i in range(5)]
        expected = (ramp * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(columns[0], expected)
        assert np.array_equal(columns[1], expected[:, ::-1])
        assert (columns[2] == 51).all()
        assert (columns[3] == 255).all()
        # The error is 1 - 2x: none in the middle (dark), beyond the scale's end at the sides (bright).
        assert columns[4][:, width // 2].sum(-1).max() < 60
        assert columns[4][:, 0].sum(-1).min() > 500
        assert np.array_equal(columns[4][:, 0], columns[4][:, width - 1])
    bars = [sheet[:CAPTION_HEIGHT], sheet[CAPTION_HEIGHT : 2 * CAPTION_HEIGHT]]
    assert all((bar > 150).any() for bar in bars), "captions and labels are written"
    second = 2 * CAPTION_HEIGHT + height + GAP
    assert not np.array_equal(sheet[CAPTION_HEIGHT : 2 * CAPTION_HEIGHT], sheet[second : second + CAPTION_HEIGHT])


def test_contact_sheet_shrinks_large_pictures_and_needs_a_row(tmp_path: Path) -> None:
    image = torch.zeros(3, 300, 1000)
    row = sheet_row(SCORES[0], ViewPictures(image, image, image[:1], image[:1]), width=100)
    assert row.shape == (CAPTION_HEIGHT + 30 + GAP, 5 * (100 + GAP), 3)
    with pytest.raises(ValueError, match="no rows"):
        write_contact_sheet(tmp_path / "sheet.png", [])


def test_parity(parity: Path) -> None:
    """The published frames, scored by the evaluator and from the stored arrays alone."""
    stored = np.load(parity / "expected.npz")
    renderer, cfg, _ = load_renderer(
        load_config(parity / "config.yml"), parity / "nr_model_0.pth", torch.device("cpu"),
        explicit=explicit_keys(parity / "config.yml")
    )
    scene = load_scene(
        parity / "scene", size_raw=(160, 128), frame_num=1, mask=True, center=cfg.DATASETS.CENTER
    )
    views = SceneDataset(scene, size=(120, 96), legacy=True)
    scores = run(renderer, views, [(0, 0), (0, 1)], batch=2)
    for camera, score in enumerate(scores):
        frame, target = stored["frames_rgba"][camera], stored[f"step{camera}_target"]
        rendered = np.clip(frame[:3] * frame[3:], 0, 1)
        wanted = target[:3] * target[3:4]
        assert score.psnr == pytest.approx(-10 * math.log10(np.square(rendered - wanted).mean()), abs=1e-3)
        assert score.alpha_mae == pytest.approx(np.abs(np.clip(frame[3], 0, 1) - target[3]).mean(), abs=1e-5)
        images = [torch.from_numpy(image)[None] for image in (rendered, wanted)]
        assert score.ssim == pytest.approx(ssim(*images).item(), abs=1e-4)
