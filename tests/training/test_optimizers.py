# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from npcr.config import load_config
from npcr.errors import ConfigError, MissingExtraError
from npcr.renderers import BlendedRenderer, LayeredRenderer, StrandsRenderer
from npcr.training.optimizers import build_optimizer, halvings_at, layers_at, learning_rate, set_learning_rate


def config(*options: str):  # type: ignore[no-untyped-def]
    return load_config(None, list(options))


def test_groups_have_their_rates_and_decays() -> None:
    cfg = config("SOLVER.BASE_LR", "0.01", "SOLVER.BIAS_LR_FACTOR", "2", "SOLVER.FEATURE_LR_FACTOR", "5",
                 "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_BIAS", "0.2")
    renderer = LayeredRenderer([torch.zeros(4, 3), torch.zeros(2, 3)], feature_dim=2)
    optimizer = build_optimizer(cfg, renderer)
    weights, biases, features = optimizer.param_groups
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02, 0.05]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.2, 0.1]
    assert len(features["params"]) == 3  # two frames' features and the default feature
    assert all(parameter.ndim == 1 for parameter in biases["params"])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(renderer.parameters()))
    assert any(parameter.ndim == 1 for parameter in weights["params"])  # the norms' weights do decay
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.5]


def test_the_blended_forms_points_have_rates_of_their_own() -> None:
    cfg = config("MODEL.FORM", "blended", "SOLVER.BASE_LR", "0.01", "SOLVER.BIAS_LR_FACTOR", "2",
                 "SOLVER.FEATURE_LR_FACTOR", "5", "SOLVER.OPACITY_LR_FACTOR", "30", "SOLVER.POSITION_LR_FACTOR", "7",
                 "SOLVER.WIDTH_LR_FACTOR", "10", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_BIAS", "0.2",
                 "SOLVER.HARMONICS_LR_FACTOR", "3", "SOLVER.HARMONICS_DECAY", "0.5")
    renderer = BlendedRenderer([torch.zeros(4, 3)], feature_dim=2, dots=3)
    names = {parameter: name for name, parameter in renderer.named_parameters()}
    found = {names[p]: (round(group["lr"], 6), group["weight_decay"])
             for group in build_optimizer(cfg, renderer).param_groups for p in group["params"]}
    assert len(found) == len(names)
    assert {name: found[name] for name in found if not name.startswith("network")} == {
        "features.0": (0.05, 0), "colors.0": (0.05, 0), "shades.0": (0.03, 0.5), "default_feature": (0.05, 0),
        "opacity.0": (0.3, 0),
        "log_width.0": (0.1, 0), "offsets.0": (0.07, 0), "strands.0": (0.07, 0)}
    assert found["network.out.weight"] == (0.01, 0.1)
    assert found["network.out.bias"] == (0.02, 0.2)


@pytest.mark.parametrize("renderer", [BlendedRenderer([torch.zeros(4, 3)]),
                                      StrandsRenderer([torch.zeros(4, 3)], [1.0])])
def test_points_have_an_epsilon_of_their_own(renderer: BlendedRenderer | StrandsRenderer) -> None:
    names = {parameter: name for name, parameter in renderer.named_parameters()}
    optimizer = build_optimizer(config("SOLVER.POINT_EPS", "1e-12"), renderer)
    found = {names[p]: group["eps"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: eps for name, eps in found.items() if name.startswith("network")}
    assert all(eps == (1e-8 if name.startswith("network") else 1e-12) for name, eps in found.items())


def test_an_epsilon_without_adam_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"POINT_EPS is Adam's, and SOLVER\.OPTIMIZER_NAME is SGD"):
        config("SOLVER.POINT_EPS", "1e-12", "SOLVER.OPTIMIZER_NAME", "SGD")


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_what_is_not_fused_is_stepped_as_torch_sees_fit(name: str) -> None:
    """`fused=False` would have torch step through a network's tensors one by one on a GPU."""
    optimizer = build_optimizer(config("SOLVER.OPTIMIZER_NAME", name), BlendedRenderer([torch.zeros(4, 3)]))
    assert {group["fused"] for group in optimizer.param_groups} == {True, None}
    assert all(group["foreach"] is None for group in optimizer.param_groups)


@pytest.mark.parametrize(("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW),
                                            ("SGD", torch.optim.SGD)])
def test_optimizer_names(name: str, kind: type) -> None:
    optimizer = build_optimizer(config("SOLVER.OPTIMIZER_NAME", name, "SOLVER.MOMENTUM", "0.7"),
                                LayeredRenderer([torch.zeros(4, 3)], feature_dim=2))
    assert type(optimizer) is kind
    if name == "SGD":
        assert optimizer.defaults["momentum"] == 0.7


def test_fused_adam_says_what_it_needs() -> None:
    try:
        import apex  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="needs NVIDIA apex"):
            build_optimizer(config("SOLVER.OPTIMIZER_NAME", "FusedAdam"),
                            LayeredRenderer([torch.zeros(4, 3)], feature_dim=2))
    else:
        pytest.skip("apex is installed")


def test_warm_up_then_steps() -> None:
    cfg = config("SOLVER.BASE_LR", "0.9", "SOLVER.WARMUP_FACTOR", "0.333333333333", "SOLVER.WARMUP_ITERS", "20",
                 "SOLVER.STEPS", "[30, 40]", "SOLVER.GAMMA", "0.1")
    rates = [learning_rate(cfg, epochs) for epochs in (0, 10, 20, 29.9, 30, 40)]
    assert rates == pytest.approx([0.3, 0.6, 0.9, 0.9, 0.09, 0.009])
    constant = config("SOLVER.BASE_LR", "0.9", "SOLVER.WARMUP_METHOD", "constant", "SOLVER.WARMUP_FACTOR", "0.5")
    assert learning_rate(constant, 19.9) == pytest.approx(0.45)


def test_cosine_ends_at_zero() -> None:
    cfg = config("SOLVER.LR_DECAY", "cosine", "SOLVER.MAX_EPOCHS", "10", "SOLVER.WARMUP_ITERS", "0",
                 "SOLVER.BASE_LR", "1")
    assert [learning_rate(cfg, e) for e in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_layers_are_added_at_their_epochs() -> None:
    cfg = config("INPUT.LAYER_NUM", "3", "SOLVER.LAYER_SCHEDULE", "[4, 6]")
    assert [layers_at(cfg, epoch) for epoch in range(1, 8)] == [1, 1, 1, 2, 2, 3, 3]
    assert layers_at(config("INPUT.LAYER_NUM", "3"), 1) == 3


def test_the_resolution_doubles_at_its_shares() -> None:
    cfg = config("SOLVER.RESOLUTION_SCHEDULE", "[0.2, 0.5]", "INPUT.SIZE_TRAIN", "[96, 300]")
    assert [halvings_at(cfg, progress) for progress in (0, 0.19, 0.2, 0.49, 0.5, 1)] == [2, 2, 1, 1, 0, 0]
    assert halvings_at(config(), 0) == 0
    small, larger = (config("SOLVER.RESOLUTION_SCHEDULE", "[0.2, 0.5]", "INPUT.SIZE_TRAIN", size)
                     for size in ("[95, 24]", "[95, 300]"))
    assert halvings_at(small, 0) == 0
    assert [halvings_at(larger, progress) for progress in (0, 0.3, 0.5)] == [1, 1, 0]
