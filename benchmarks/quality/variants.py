# SPDX-License-Identifier: Apache-2.0
"""The questions of the study, and for each the variants that answer it, as changes of the recommended settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from npcr.config import KEYS
from npcr.config.recommended import RECOMMENDED, Settings
from npcr.errors import ConfigError


@dataclass(frozen=True)
class CloudChange:
    """How a variant's point cloud differs from the scene's."""

    density: float = 1.0  # fraction of the points; above 1: with copies of points, jittered by half a spacing
    noise: float = 0.0  # standard deviation of each coordinate, in spacings of the scene's cloud


@dataclass(frozen=True)
class Variant:
    """One training configuration; `overrides` are dotted keys that differ from the recommended settings."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cloud: CloudChange = CloudChange()
    shifted: str = ""  # a way of benchmarks/quality/shifted_training.py; "": as training does it

    @property
    def needs_vgg(self) -> bool:
        return bool(self.overrides.get("LOSS.PERCEPTUAL", 0))


@dataclass(frozen=True)
class Question:
    """A table of the study: its rows in order, each with a label. Questions may share variants."""

    name: str
    title: str
    rows: tuple[tuple[str, Variant], ...]


def flat(settings: Settings) -> dict[str, Any]:
    """Convert settings nested by section to dotted keys."""
    return {f"{section}.{key}": value for section, values in settings.items() for key, value in values.items()}


# Scene files of before have SOLVER.HARMONICS_CELL 16: every run says its own.
RECOMMENDED_KEYS = flat(RECOMMENDED) | {"SOLVER.HARMONICS_CELL": 0}
BASE = Variant("recommended")
# The keys' own defaults are the published settings (configs/Hair.yml).
PUBLISHED = {key: KEYS[key].default for key in RECOMMENDED_KEYS} | {"MODEL.LEGACY": True}
# The published form with the rest of the recommended settings: learning rates, loss, colors of the points.
LAYERED = {"MODEL.FORM": "layered", "MODEL.FEATURE_DIM": 32, "INPUT.USE_RGB": True, "PROJECTION.PEELING": "point",
           "INPUT.LAYER_NUM": 1}
# As new scenes were trained before the strands form; the other settings are the same.
BLENDED = {"MODEL.FORM": "blended", "MODEL.FEATURE_DIM": 8, "MODEL.WIDTH": 16, "MODEL.DOTS": 5, "INPUT.LAYER_NUM": 64,
           "PROJECTION.PEELING": "pixel"}
OLD_FILTER = {"MODEL.FILTER_VARIANCE": 0.2}
NO_FIELD = {"MODEL.FIELD_NODES": 0}
EQUAL_MATTE = {"LOSS.MATTE": 1}
ALL_KEPT = {"SOLVER.DROP_SPLATS": 0}
# A light network finishes the picture, as was recommended before.
NETWORK = {"MODEL.NETWORK": True, "MODEL.FEATURE_DIM": 4, "MODEL.WIDTH": 8, "MODEL.NETWORK_HALVINGS": 1}
WITH_NETWORK = Variant("with-network", NETWORK)
FULL_NETWORK = NETWORK | {"MODEL.NETWORK_HALVINGS": 0}
ALWAYS_FULL = {"SOLVER.RESOLUTION_SCHEDULE": []}
UNMOVED = {"SOLVER.RELOCATE_EVERY": 0}
EPS = {"SOLVER.POINT_EPS": 1e-15}
SLOW = {"SOLVER.OPACITY_LR_FACTOR": 30, "SOLVER.POSITION_LR_FACTOR": 10, "SOLVER.WIDTH_LR_FACTOR": 10}
SLOWER = {"SOLVER.OPACITY_LR_FACTOR": 9, "SOLVER.POSITION_LR_FACTOR": 3, "SOLVER.WIDTH_LR_FACTOR": 3}
# As Kheradmand et al. 2024 have it: without a weight of the opacity hardly a splat becomes useless.
MCMC = {"SOLVER.RELOCATE_BY": "opacity", "SOLVER.RELOCATE_BELOW": 0.01, "LOSS.OPACITY": 0.01}
# What stands in for 3D Gaussian Splatting where there is no GPU for it.
SPLATS_ALONE = ALL_KEPT | ALWAYS_FULL | NO_FIELD | EQUAL_MATTE | {
    "SOLVER.RELOCATE_BELOW": 0.2, "MODEL.STRANDS": False}
GSPLAT_FILTER = {"MODEL.FILTER_VARIANCE": 0.3}  # gsplat's `eps2d`


def questions() -> tuple[Question, ...]:
    """Return every table of the study."""
    mse = {"LOSS.L1": 0, "LOSS.SSIM": 0, "LOSS.MSE": 1}
    recommended = ("recommended", BASE)
    return (
        Question("form", "Forms", (
            ("published settings", Variant("published", PUBLISHED)),
            ("published settings without the perceptual term", Variant("published-mse", PUBLISHED | {
                "LOSS.PERCEPTUAL": 0})),
            ("layered, tuned, 1 layer", _layered("1")),
            ("layered, tuned, 4 layers", _layered("4", INPUT__LAYER_NUM=4)),
            ("blended, recommended before", Variant("blended", BLENDED)),
            ("strands (recommended at that commit)", BASE),
            ("strands with a network, as recommended before", WITH_NETWORK),
            ("splats alone: no network, no strands to start from, moved", Variant("splats-alone", SPLATS_ALONE)),
            ("the same, the first quarter at half the resolution", Variant("splats-alone-schedule", {
                key: value for key, value in SPLATS_ALONE.items() if key not in ALWAYS_FULL})),
            ("splats alone, with the filter that gsplat has", Variant("splats-alone-gsplat-filter",
                                                                     SPLATS_ALONE | GSPLAT_FILTER)))),
        Question("resolution", "Resolution of the photographs", (
            recommended,
            ("full from the start", Variant("schedule-none", ALWAYS_FULL)),
            ("half for 40% of the time", Variant("schedule-40", {"SOLVER.RESOLUTION_SCHEDULE": [0.4]})))),
        Question("network", "A light network that finishes the picture", (
            ("none (recommended)", BASE),
            ("at half the resolution, 8 channels, 4 features", WITH_NETWORK),
            ("at full resolution", Variant("network-full", FULL_NETWORK)),
            ("joins with the full resolution", Variant("network-from-25", NETWORK | {"SOLVER.NETWORK_FROM": 0.25})))),
        Question("width", "Channels of the light network", _of_network("width", "MODEL.WIDTH", 8, (16, 32))),
        Question("features", "Features per point for the light network",
                 _of_network("features", "MODEL.FEATURE_DIM", 4, (8, 16))),
        Question("sharpness", "Filter and matte", (
            recommended,
            *((f"a filter of {variance:g} square pixels", Variant(f"filter-{variance:g}", {
                "MODEL.FILTER_VARIANCE": variance})) for variance in (0.05, 0.2)),
            ("matte as a color channel", Variant("matte-1", EQUAL_MATTE)),
            ("ten times a color channel", Variant("matte-10", {"LOSS.MATTE": 10})),
            ("a filter of 0.2, matte as a color channel", Variant("blunt", OLD_FILTER | EQUAL_MATTE)))),
        Question("light", "Light that changes with the view", (
            recommended,
            ("each splat has its color by direction alone", Variant("field-none", NO_FIELD)),
            *((f"a grid of {nodes} nodes along each axis", Variant(f"field-{nodes}", {"MODEL.FIELD_NODES": nodes}))
              for nodes in (2, 6)),
            ("shared colors alone, splats have no harmonics", Variant("field-alone", {"MODEL.HARMONICS": 0})),
            ("neighbors learn their harmonics together", Variant("harmonics-together", {
                "SOLVER.HARMONICS_CELL": 16})))),
        Question("heart", "Against learning by heart", (
            recommended,
            ("none moved", Variant("unmoved", UNMOVED)),
            ("none moved, none left out", Variant("strands-light", UNMOVED | ALL_KEPT)),
            *((f"colors drawn to their neighbors' by {decay}", Variant(f"color-decay-{decay}", {
                "SOLVER.COLOR_DECAY": decay})) for decay in (1, 4)),
            ("none left out", Variant("drop-0", ALL_KEPT)),
            ("40% of the splats left out at the end", Variant("drop-40", {"SOLVER.DROP_SPLATS": 0.4})),
            ("20% left out, in cells of 4 spacings", Variant("drop-cells-20", {"SOLVER.DROP_CELL": 4})),
            ("20% and, every other step, high harmonics left out", Variant("drop-harmonics", {
                "SOLVER.DROP_HARMONICS": 0.5})),
            ("opacity and size weighted", Variant("regularized", {"LOSS.OPACITY": 0.01, "LOSS.SIZE": 0.01})),
            ("none moved, ten times the decay of view-dependent color", Variant("unmoved-decay-10", UNMOVED | {
                "SOLVER.HARMONICS_DECAY": 10})))),
        Question("shift", "Photographs shifted in training", (
            recommended,
            *((f"by up to {shift} pixel{'s' * (shift > 1)}, {label}", Variant(f"shift-{shift}-{way}", {
                "DATASETS.SHIFT": shift}, shifted=way))
              for way, shift, label in (("whole", 2, "whole ones"), ("linear", 1, "linear"), ("cubic", 1, "cubic"))),
            ("not shifted, blurred as linear shifts do on average", Variant("shift-blur", shifted="blur")),
            ("by up to 10 pixels, and cut around the object", Variant("shift-10", {"DATASETS.SHIFT": 10})),
            ("by up to 1 pixel, none moved, none left out", Variant("strands-light-shift-1", UNMOVED | ALL_KEPT | {
                "DATASETS.SHIFT": 1})),
            ("magnified by up to 1.1", Variant("shift-zoom", {"DATASETS.MAXRATION": 0.1})),
            ("turned by up to 10 degrees", Variant("shift-turn", {"DATASETS.ROTATION": 20})))),
        Question("population", "How many splats, and where", (
            recommended,
            ("none moved", Variant("unmoved", UNMOVED)),
            ("every 50 steps", Variant("relocate-50", {"SOLVER.RELOCATE_EVERY": 50})),
            *((f"below {below:g} of the mean", Variant(f"relocate-below-{below:g}", {"SOLVER.RELOCATE_BELOW": below}))
              for below in (0.2, 0.9)),
            ("by opacity, opacity weighted, as of MCMC", Variant("mcmc", MCMC)),
            *((f"none moved, {count:,} splats", Variant(f"unmoved-{count}", UNMOVED | {"MODEL.MAX_SPLATS": count}))
              for count in (45_000, 180_000)),
            ("180,000 splats", Variant("splats-180000", {"MODEL.MAX_SPLATS": 180_000})))),
        Question("eps", "Adam's epsilon of the points, and their rates", (
            recommended,
            ("epsilon 1e-15", Variant("eps", EPS)),
            ("epsilon 1e-15, none moved, none left out", Variant("strands-light-eps", UNMOVED | ALL_KEPT | EPS)),
            ("epsilon 1e-15, a third of the rates", Variant("eps-slow", EPS | SLOW)),
            ("epsilon 1e-15, a tenth of the rates", Variant("eps-slower", EPS | SLOWER)),
            ("colors and harmonics at a third of the rate", Variant("colors-slow", {
                "SOLVER.FEATURE_LR_FACTOR": 5, "SOLVER.HARMONICS_LR_FACTOR": 5})))),
        Question("norm", "Norm of the layered form", (
            ("instance: per image, as published", _layered("1")),
            ("batch: running statistics", _layered("1-batch", MODEL__NORM="batch")),
            ("none", _layered("1-none", MODEL__NORM="none")))),
        Question("harmonics", "View-dependent color", _each("harmonics", "MODEL.HARMONICS", (0, 1, 2, 3), "degree ")),
        Question("loss", "Loss terms", (
            recommended,
            ("L1 alone", Variant("loss-l1", mse | {"LOSS.L1": 1, "LOSS.MSE": 0})),
            ("MSE alone", Variant("loss-mse", mse)),
            ("none moved, ten times MSE in place of L1", Variant("unmoved-loss-mse", UNMOVED | {
                "LOSS.L1": 0, "LOSS.MSE": 10})),
            ("none moved, SSIM 0.5", Variant("unmoved-loss-ssim", UNMOVED | {"LOSS.SSIM": 0.5})),
            ("recommended + gradient", Variant("loss-gradient", {"LOSS.GRADIENT": 1})),
            ("recommended + 0.02 perceptual", Variant("loss-perceptual", {"LOSS.PERCEPTUAL": 0.02})))),
        Question("density", "Points in the cloud", (
            ("a quarter", Variant("density-0.25", cloud=CloudChange(density=0.25))),
            ("half", Variant("density-0.5", cloud=CloudChange(density=0.5))),
            ("all (recommended)", BASE),
            ("twice, the second time jittered", Variant("density-2", cloud=CloudChange(density=2))))),
        Question("noise", "Noise in the points' positions", (
            ("none (recommended)", BASE),
            *((f"{noise:g} spacings", Variant(f"noise-{noise:g}", cloud=CloudChange(noise=noise)))
              for noise in (0.5, 1.0, 2.0)))),
    )


def all_variants() -> dict[str, Variant]:
    """Return every variant by its name, in the order of the tables."""
    found: dict[str, Variant] = {}
    for question in questions():
        for _, variant in question.rows:
            if found.setdefault(variant.name, variant) != variant:
                raise ValueError(f"two variants are called {variant.name}")
    return found


def select(names: Sequence[str]) -> list[Variant]:
    """Select variants.

    Args:
        names: of variants, or of questions for all their variants; none: every variant.

    Returns:
        Each selected variant once, in the order of the tables.

    Raises:
        ConfigError: no variant or question has a name.
    """
    variants, tables = all_variants(), {question.name: question for question in questions()}
    chosen: dict[str, Variant] = {}
    for name in names or variants:
        if name in variants:
            chosen[name] = variants[name]
        elif name in tables:
            chosen.update({variant.name: variant for _, variant in tables[name].rows})
        else:
            raise ConfigError(f"--only {name}: no such variant or question; questions: {', '.join(tables)}; "
                              f"variants: {', '.join(variants)}")
    return [variant for name, variant in variants.items() if name in chosen]


def _each(name: str, key: str, values: Sequence[Any], before: str = "") -> tuple[tuple[str, Variant], ...]:
    """Rows for each value of one key, and for the recommended value, which is `BASE`."""
    recommended = RECOMMENDED_KEYS.get(key, KEYS[key].default)
    if recommended not in values:
        values = sorted([*values, recommended])
    return tuple((f"{before}{value} (recommended)", BASE) if value == recommended
                 else (f"{before}{value}", Variant(f"{name}-{value}", {key: value})) for value in values)


def _of_network(name: str, key: str, usual: int, others: Sequence[int]) -> tuple[tuple[str, Variant], ...]:
    """Rows without a network, with the one of `NETWORK`, whose `key` is `usual`, and with other values of it."""
    return (("no network (recommended)", BASE), (str(usual), WITH_NETWORK),
            *((str(value), Variant(f"{name}-{value}", NETWORK | {key: value})) for value in others))


def _layered(name: str, **overrides: Any) -> Variant:
    """`LAYERED` with `SECTION__KEY=value` replaced."""
    return Variant(f"layered-{name}", LAYERED | {key.replace("__", "."): value for key, value in overrides.items()})
