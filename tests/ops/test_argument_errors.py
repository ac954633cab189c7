# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import pcpr_ext
from npcr.errors import NpcrError
from npcr.ops import (
    OperatorError,
    compiled_available,
    composite_dots,
    composite_gaussians,
    dispatch,
    gather_features,
    project_gaussians,
    rasterize,
    view_colors,
)

GOOD: dict[str, Any] = {
    "points": torch.zeros(4, 3),
    "cam_to_world": torch.eye(4)[None],
    "intrinsics": torch.eye(3)[None],
    "size": (5, 4),
    "near": 1.0,
    "far": 2.0,
    "max_size": 1.0,
    "layers": 2,
}
GOOD_GATHER: dict[str, Any] = {
    "features": torch.zeros(4, 2),
    "default_feature": torch.zeros(2),
    "index": torch.zeros(1, 1, 3, 3, dtype=torch.int32),
}
GOOD_COMPOSITE: dict[str, Any] = {
    "dots": torch.zeros(4, 2),
    "points": torch.zeros(2, 5),
    "index": torch.zeros(2, 3, 4, dtype=torch.int32),
    "depth": torch.zeros(2, 3, 4),
    "background": torch.zeros(2),
}
GOOD_GAUSSIANS: dict[str, Any] = {
    "means": torch.zeros(4, 3),
    "strands": torch.zeros(4, 3),
    "widths": torch.zeros(4),
    "opacities": torch.zeros(4),
    "cam_to_world": torch.eye(4),
    "intrinsics": torch.eye(3),
    "size": (5, 4),
}
GOOD_ELLIPSES: dict[str, Any] = {"ellipses": torch.zeros(4, 8), "values": torch.zeros(4, 2), "size": (5, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(4, 2)}, r"points must have shape \(N, 3\), got shape \(4, 2\)"),
        ({"points": torch.zeros(3)}, r"points must have shape \(N, 3\), got shape \(3,\)"),
        ({"points": torch.zeros(4, 3).double()}, r"points must be torch.float32, got torch.float64"),
        ({"cam_to_world": torch.eye(4)}, r"cam_to_world must have shape \(B, 4, 4\), got shape \(4, 4\)"),
        ({"cam_to_world": torch.zeros(1, 3, 4)}, r"cam_to_world must have shape .* got shape \(1, 3, 4\)"),
        ({"intrinsics": torch.zeros(2, 3, 3)}, r"intrinsics must have shape \(1, 3, 3\), got .*\(2, 3, 3\)"),
        ({"intrinsics": torch.eye(3).half()[None]}, r"intrinsics must be torch.float32, got torch.float16"),
        ({"intrinsics": torch.zeros(1, 3, 3, device="meta")}, r"intrinsics \(on meta\) .* points \(cpu\)"),
        ({"size": (5, 0)}, r"size's height must be a whole number from 1 to 32767, got 0"),
        ({"size": (40000, 2)}, r"size's width .* 32767, got 40000"),
        ({"size": (5.5, 2)}, r"size's width .* got 5.5"),
        ({"size": (5, 4, 3)}, r"size must be \(width, height\), got \(5, 4, 3\)"),
        ({"layers": 0}, r"layers must be a whole number from 1 to 65535, got 0"),
        ({"near": float("nan")}, r"near must be finite, got nan"),
        ({"far": 1.0}, r"far must be greater than near, got near 1.0 and far 1.0"),
        ({"far": 1.0 + 1e-12}, r"must stay apart and finite in float32"),
        ({"far": 1e300}, r"must stay apart and finite in float32"),
        ({"max_size": -1.0}, r"max_size must be at least 0, got -1.0"),
        ({"peeling": "layer"}, r"peeling must be one of point, pixel, got 'layer'"),
        ({"backend": "gpu"}, r"backend must be one of auto, torch, compiled, got 'gpu'"),
    ],
)
def test_rasterize_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message) as caught:
        rasterize(**(GOOD | change))
    assert isinstance(caught.value, NpcrError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(4)}, r"features must have shape \(N, C\), got shape \(4,\)"),
        ({"features": torch.zeros(4, 2, dtype=torch.int32)}, r"features must be floating point"),
        (
            {"features": torch.zeros(4, 0), "default_feature": torch.zeros(0)},
            r"features must have at least one channel, got shape \(4, 0\)",
        ),
        ({"default_feature": torch.zeros(3)}, r"default_feature must have shape \(2,\), got shape \(3,\)"),
        (
            {"default_feature": torch.zeros(2).half()},
            r"default_feature must be torch.float32 like features, got torch.float16",
        ),
        ({"default_feature": torch.zeros(2, device="meta")}, r"default_feature \(on meta\)"),
        ({"index": torch.zeros(3, 3, dtype=torch.int32)}, r"index must have shape \(B, K, H, W\)"),
        ({"index": torch.zeros(1, 1, 3, 3)}, r"index must be torch.int32 or torch.int64, got torch.float32"),
        (
            {
                "features": torch.zeros(4, 2).double(),
                "default_feature": torch.zeros(2).double(),
                "backend": "compiled",
            },
            r"backend 'compiled' takes torch.float32",
        ),
    ],
)
def test_gather_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        gather_features(**(GOOD_GATHER | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dots": torch.zeros(4, 3)}, r"dots must have shape \(D, 2\), got shape \(4, 3\)"),
        ({"points": torch.zeros(2, 6)}, r"points must have shape \(N, 5\), got shape \(2, 6\)"),
        ({"points": torch.zeros(3, 5)}, r"dots must have a multiple of the 3 rows of points, .* got shape \(4, 2\)"),
        ({"points": torch.zeros(0, 5)}, r"dots must have a multiple of the 0 rows of points"),
        ({"dots": torch.zeros(4, 2, dtype=torch.int32)}, r"dots must be floating point, got torch.int32"),
        ({"points": torch.zeros(2, 5).double()}, r"points must be torch.float32 like dots, got torch.float64"),
        ({"index": torch.zeros(2, 3, 4)}, r"index must be torch.int32 or torch.int64, got torch.float32"),
        ({"depth": torch.zeros(2, 3, 3)}, r"depth must have shape \(2, 3, 4\), got shape \(2, 3, 3\)"),
        ({"background": torch.zeros(2, device="meta")}, r"background \(on meta\) .* dots \(cpu\)"),
        ({"backend": "gpu"}, r"backend must be one of auto, torch, compiled, got 'gpu'"),
    ],
)
def test_composite_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        composite_dots(**(GOOD_COMPOSITE | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(4, 2)}, r"means must have shape \(N, 3\), got shape \(4, 2\)"),
        ({"means": torch.zeros(4, 3, dtype=torch.int32)}, r"means must be floating point, got torch.int32"),
        ({"means": torch.zeros(5, 3)}, r"strands must have shape \(5, 3\), got shape \(4, 3\)"),
        ({"strands": torch.zeros(4, 3).double()}, r"strands must be torch.float32 like means, got torch.float64"),
        ({"widths": torch.zeros(4, 1)}, r"widths must have shape \(4,\), got shape \(4, 1\)"),
        ({"widths": torch.zeros(4, device="meta")}, r"widths \(on meta\) must be on the device of means \(cpu\)"),
        ({"opacities": torch.zeros(3)}, r"opacities must have shape \(4,\), got shape \(3,\)"),
        ({"cam_to_world": torch.eye(4)[None]}, r"cam_to_world must have shape \(4, 4\), got shape \(1, 4, 4\)"),
        ({"cam_to_world": torch.eye(4, device="meta")}, r"cam_to_world \(on meta\)"),
        ({"intrinsics": torch.eye(4)}, r"intrinsics must have shape \(3, 3\), got shape \(4, 4\)"),
        ({"intrinsics": torch.eye(3).half()}, r"intrinsics must be torch.float32 like means, got torch.float16"),
        ({"size": (40000, 2)}, r"size's width must be a whole number from 1 to 32767, got 40000"),
        ({"filter_variance": 0.0}, r"filter_variance must be finite and above 0, got 0.0"),
        ({"filter_variance": float("nan")}, r"filter_variance must be finite and above 0, got nan"),
        ({"min_share": 0.0}, r"min_share must be above 0 and below 1, got 0.0"),
        ({"min_share": 1.0}, r"min_share must be above 0 and below 1, got 1.0"),
        ({"min_share": float("nan")}, r"min_share must be above 0 and below 1, got nan"),
        ({"backend": "gpu"}, r"backend must be one of auto, torch, compiled, got 'gpu'"),
    ],
)
def test_project_gaussians_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match="project_gaussians: " + message):
        project_gaussians(**(GOOD_GAUSSIANS | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ellipses": torch.zeros(4, 7)}, r"ellipses must have shape \(N, 8\), got shape \(4, 7\)"),
        ({"ellipses": torch.zeros(4, 8, dtype=torch.int64)}, r"ellipses must be floating point, got torch.int64"),
        ({"values": torch.zeros(3, 2)}, r"values must have shape \(4, C\), got shape \(3, 2\)"),
        ({"values": torch.zeros(4)}, r"values must have shape \(4, C\), got shape \(4,\)"),
        ({"values": torch.zeros(4, 128)}, r"values must have at most 127 channels, got shape \(4, 128\)"),
        ({"values": torch.zeros(4, 2).half()}, r"values must be torch.float32 like ellipses, got torch.float16"),
        ({"values": torch.zeros(4, 2, device="meta")}, r"values \(on meta\) must be on the device of ellipses \(cpu\)"),
        ({"size": (5, 0)}, r"size's height must be a whole number from 1 to 32767, got 0"),
        ({"backend": "gpu"}, r"backend must be one of auto, torch, compiled, got 'gpu'"),
    ],
)
def test_composite_gaussians_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match="composite_gaussians: " + message):
        composite_gaussians(**(GOOD_ELLIPSES | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(4, 2)}, r"points must have shape \(N, 3\), got shape \(4, 2\)"),
        ({"origin": torch.zeros(1, 3)}, r"origin must have shape \(3,\), got shape \(1, 3\)"),
        ({"constant": torch.zeros(4, 3)}, r"constant must have shape \(4, 1, 3\), got shape \(4, 3\)"),
        ({"others": torch.zeros(3, 8, 3)}, r"others must have shape \(4, K, 3\), got shape \(3, 8, 3\)"),
        ({"others": torch.zeros(4, 9, 3)}, r"others must have 0, 3, 8 or 15 coefficients \(degree 0 to 3\), got shape"),
        ({"others": torch.zeros(4, 8, 3).half()}, r"others must be torch.float32 like points, got torch.float16"),
        ({"origin": torch.zeros(3, device="meta")}, r"origin \(on meta\) must be on the device of points \(cpu\)"),
        ({"backend": "gpu"}, r"backend must be one of auto, torch, compiled, got 'gpu'"),
    ],
)
def test_view_colors_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    good = {"points": torch.zeros(4, 3), "origin": torch.zeros(3), "constant": torch.zeros(4, 1, 3),
            "others": torch.zeros(4, 8, 3), "backend": "auto"}
    with pytest.raises(OperatorError, match="view_colors: " + message):
        view_colors(**(good | change))


def test_without_a_library_one_warning_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: None)
    monkeypatch.setattr(pcpr_ext, "why_missing", lambda kind: "not built, run 'python -m pcpr_ext.build'")
    dispatch._warn_once.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"python -m pcpr_ext\.build"):
            rasterize(**GOOD)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once is enough
            rasterize(**GOOD)
            gather_features(**GOOD_GATHER)
            composite_gaussians(project_gaussians(**GOOD_GAUSSIANS), torch.zeros(4, 2), (5, 4))
        assert not compiled_available()
        with pytest.raises(OperatorError, match=r"backend 'compiled' on cpu: not built"):
            rasterize(**GOOD, backend="compiled")
    finally:
        dispatch._warn_once.cache_clear()
