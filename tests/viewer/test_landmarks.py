# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from npcr.data.samples import SceneDataset
from npcr.data.scene import load_scene
from npcr.viewer import landmarks as module
from npcr.viewer.landmarks import Landmarks
from npcr.viewer.photographs import PhotographedViews
from tests.scenes import write_tiny_scene


class StubScene:
    """What of viser's scene is used."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def _add(self, name: str, *arguments: object, **options: object) -> Any:
        node = SimpleNamespace(arguments=arguments, **options)
        node.on_click = lambda action: setattr(node, "click", lambda: action(None))
        node.remove = lambda: [self.nodes.pop(key) for key in list(self.nodes) if f"{key}/".startswith(f"{name}/")]
        self.nodes[name] = node
        return node

    add_point_cloud = add_frame = add_camera_frustum = _add


def test_the_cloud_is_thinned_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOUD_LIMIT", 100)
    scene = StubScene()
    landmarks = Landmarks(scene, np.zeros(3))
    points = np.random.default_rng(0).normal(size=(250, 3)).astype(np.float32)
    points[7] = np.nan
    assert landmarks.draw_cloud(points) == 83  # every third of 249
    assert landmarks.draw_cloud(points[:50]) == 49
    assert np.isfinite(scene.nodes["/cloud"].arguments[0]).all()
    assert landmarks.draw_cloud(points[:0]) == 0
    assert scene.nodes == {}
    landmarks.draw_cloud(points[8:9])  # a single one has no extent
    assert scene.nodes["/cloud"].point_size > 0
    landmarks.hide_cloud()
    landmarks.hide_cloud()
    assert scene.nodes == {}


def test_cameras_stand_where_they_are_and_tell_who_was_clicked(tmp_path: Path) -> None:
    folder = write_tiny_scene(tmp_path / "scene", cameras=3, size=(48, 36))
    scene = load_scene(folder, size_raw=(48, 36), frame_num=1, mask=True, center=[])
    views = PhotographedViews(SceneDataset(scene, size=(48, 36)), held_out=[1])
    drawn, clicked = StubScene(), []
    landmarks = Landmarks(drawn, np.zeros(3))
    landmarks.draw_cameras(views, clicked.append)
    landmarks.draw_cameras(views, clicked.append)  # in their place
    assert sorted(drawn.nodes) == ["/cameras", "/cameras/1", "/cameras/2", "/cameras/3"]
    second = drawn.nodes["/cameras/2"]
    np.testing.assert_allclose(Rotation.from_quat(second.wxyz[[1, 2, 3, 0]]).as_matrix(), views.poses[1, :3, :3],
                               atol=1e-6)
    np.testing.assert_array_equal(second.position, views.poses[1, :3, 3])
    assert second.arguments == (np.radians(views.fovs[1]), 48 / 36)
    assert second.color != drawn.nodes["/cameras/1"].color == drawn.nodes["/cameras/3"].color
    second.click()
    assert clicked == [1]
    landmarks.hide_cameras()
    assert drawn.nodes == {}
