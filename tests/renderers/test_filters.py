# SPDX-License-Identifier: Apache-2.0
"""The low-pass filters of the strands form: one for photographs and single views, one for the frames of a path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from npcr.checkpoints import load_model, save_model
from npcr.errors import CheckpointError
from npcr.factory import load_renderer
from npcr.refine.steady import render_frame
from npcr.renderers import StrandsRenderer
from npcr.rendering.frames import render_outputs
from npcr.training.trainer import Trainer
from tests.scenes import orbit_cameras, write_tiny_scene
from tests.training.test_trainer import STRANDS, config

CAMERA = orbit_cameras(1, (48, 36))
CPU = torch.device("cpu")


def thin_hairs(**options: float) -> StrandsRenderer:
    """Level strands thinner than a pixel, which a narrow filter shows sharper."""
    generator = torch.Generator().manual_seed(0)
    renderer = StrandsRenderer([torch.rand(40, 3, generator=generator) - 0.5], [0.02],
                               [torch.ones(40, 3)], width=0, **options)
    with torch.no_grad():
        renderer.strands[0].copy_(torch.tensor([8.0, 0, 0]).expand(40, 3))
        renderer.log_width[0].fill_(0)
        renderer.opacity[0].fill_(4)
    return renderer.eval()


@torch.no_grad()
def alpha(renderer: StrandsRenderer) -> Tensor:
    return renderer(CAMERA).alpha


def test_a_narrow_filter_is_sharper_and_covers_as_much() -> None:
    sharp, blurred = (alpha(thin_hairs(filter_variance=variance)) for variance in (0.1, 0.4))
    assert sharp.max() > 1.3 * blurred.max()
    assert float(sharp.sum() / blurred.sum()) == pytest.approx(1, abs=0.1)  # shares below 1/255 are not drawn


def test_frames_of_a_path_have_the_path_s_filter_and_nothing_else_has() -> None:
    renderer = thin_hairs(filter_variance=0.1, path_filter_variance=0.4)
    sharp, blurred = (alpha(thin_hairs(filter_variance=variance)) for variance in (0.1, 0.4))
    assert torch.equal(alpha(renderer), sharp)
    assert torch.equal(next(iter(render_outputs(renderer, CAMERA))).alpha, blurred)
    frame = render_frame(renderer, CAMERA, 0)
    torch.testing.assert_close(frame.image[:, 3:].detach(), blurred)
    assert torch.equal(alpha(renderer), sharp)
    with pytest.raises(RuntimeError, match="stop"), renderer.as_path_frames():
        raise RuntimeError("stop")
    assert torch.equal(alpha(renderer), sharp)


def test_without_a_filter_of_its_own_a_path_has_the_model_s() -> None:
    renderer = thin_hairs(filter_variance=0.1)
    assert torch.equal(next(iter(render_outputs(renderer, CAMERA))).alpha, alpha(renderer))


def test_tiles_have_the_filter_of_the_whole() -> None:
    renderer = thin_hairs(filter_variance=0.1, path_filter_variance=0.4)
    whole = next(iter(render_outputs(renderer, CAMERA))).alpha
    renderer.tile = 24
    torch.testing.assert_close(next(iter(render_outputs(renderer, CAMERA))).alpha, whole)


def test_a_checkpoint_brings_its_filter_and_the_command_line_may_change_it(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = tmp_path / "scene"
    write_tiny_scene(scene, cameras=5, size=(32, 28))
    cfg = config(scene, tmp_path / "out", *STRANDS, "MODEL.FILTER_VARIANCE", "0.1", "TEMPORAL.FILTER_VARIANCE", "0.3")
    Trainer(cfg, CPU).run()
    checkpoint = sorted((tmp_path / "out").glob("nr_model_*.pth"))[-1]
    given = config(scene, tmp_path / "other")
    renderer, merged, _ = load_renderer(given, checkpoint, CPU, explicit=[])
    assert renderer.filter_variance == merged.MODEL.FILTER_VARIANCE == 0.1
    assert renderer.path_filter_variance == 0.1  # the frames' is the configuration's, which has none
    given = config(scene, tmp_path / "other", "MODEL.FILTER_VARIANCE", "0.2")
    renderer, merged, _ = load_renderer(given, checkpoint, CPU, explicit={"MODEL.FILTER_VARIANCE"})
    assert renderer.filter_variance == merged.MODEL.FILTER_VARIANCE == 0.2
    assert "was trained with MODEL.FILTER_VARIANCE 0.1; rendering with 0.2" in caplog.text


def test_a_checkpoint_older_than_a_key_has_the_key_s_default(tmp_path: Path) -> None:
    """Or a network made for the whole picture would see half of it where the configuration is newer."""
    scene = tmp_path / "scene"
    write_tiny_scene(scene, cameras=5, size=(32, 28))
    Trainer(config(scene, tmp_path / "out", *STRANDS, "SOLVER.MAX_EPOCHS", "1", "MODEL.FIELD_NODES", "0"), CPU).run()
    path = tmp_path / "out" / "nr_model_1.pth"
    model = load_model(path)
    for key in ("FILTER_VARIANCE", "NETWORK_HALVINGS", "FIELD_NODES"):
        del model.config["MODEL"][key]
    save_model(path, model)
    newer = ["MODEL.NETWORK_HALVINGS", "1", "MODEL.FILTER_VARIANCE", "0.1", "MODEL.FIELD_NODES", "4"]
    renderer, merged, _ = load_renderer(config(scene, tmp_path / "other", *newer), path, CPU, explicit=[])
    assert renderer.network.halvings == merged.MODEL.NETWORK_HALVINGS == 0
    assert renderer.field is None
    assert renderer.filter_variance == merged.MODEL.FILTER_VARIANCE == 0.2
    with pytest.raises(CheckpointError, match=r"trained with MODEL\.NETWORK_HALVINGS 0, the configuration says 1"):
        load_renderer(config(scene, tmp_path / "other", *newer), path, CPU, explicit={"MODEL.NETWORK_HALVINGS"})
