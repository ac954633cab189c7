# SPDX-License-Identifier: Apache-2.0
"""Every form on a GPU against the CPU: a frame, and the gradients of all parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.config import changed, default_config
from npcr.factory import build_renderer
from npcr.io.points import PointCloud
from npcr.numerics import tf32
from npcr.renderers import FORMS
from tests.scenes import orbit_cameras

SIZE = (64, 48)


def frame_and_gradients(form: str, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Color and alpha of a camera, and the gradient of a loss by parameter; without TF32."""
    cfg = changed(default_config(), MODEL__FORM=form, MODEL__FEATURE_DIM=8, MODEL__WIDTH=8, MODEL__FIELD_NODES=3,
                  INPUT__LAYER_NUM=3, INPUT__SIZE_TRAIN=list(SIZE), INPUT__SIZE_TEST=list(SIZE),
                  INPUT__NEAR_FAR_SIZE=[2.0, 8.0, 1.5])
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.normal(0, 0.4, (3000, 3)).astype(np.float32), rng.integers(0, 256, (3000, 3), np.uint8))
    renderer = build_renderer(cfg, [cloud])
    with torch.no_grad():  # fresh networks of some forms add nothing
        for parameter in renderer.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    renderer = renderer.to(device)
    target = torch.rand(1, 4, *reversed(SIZE), generator=torch.Generator().manual_seed(0)).to(device)
    with tf32(False):
        output = renderer.train()(orbit_cameras(3, SIZE)[1].to(device))
        image = torch.cat([output.trained_color, output.alpha], dim=1)
        (image - target).square().mean().backward()
    gradients = {name: p.grad.cpu() for name, p in renderer.named_parameters() if p.grad is not None}
    return image.detach().cpu(), gradients


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_what_it_gives_on_a_cpu(form: str) -> None:
    image, gradients = frame_and_gradients(form, "cpu")
    found, found_gradients = frame_and_gradients(form, "cuda")
    assert image[:, 3].max() > 0.1  # not an empty picture
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)
    assert found_gradients.keys() == gradients.keys()
    everything, everything_found = (torch.cat([each[name].flatten() for name in gradients])
                                    for each in (gradients, found_gradients))
    assert (everything_found - everything).norm() < 0.01 * everything.norm()
