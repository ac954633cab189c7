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


RECOMMENDED_KEYS = flat(RECOMMENDED)
BASE = Variant("recommended")
# The keys' own defaults are the published settings (configs/Hair.yml).
PUBLISHED = {key: KEYS[key].default for key in RECOMMENDED_KEYS} | {"MODEL.LEGACY": True}
# The published form with the rest of the recommended settings: learning rates, loss, colors of the points.
LAYERED = {"MODEL.FORM": "layered", "MODEL.FEATURE_DIM": 32, "INPUT.USE_RGB": True, "PROJECTION.PEELING": "point",
           "INPUT.LAYER_NUM": 1}
LIGHT = {"MODEL.FEATURE_DIM": 4, "MODEL.WIDTH": 8}
STRANDS = {"MODEL.FORM": "strands"}
RELOCATE = {"SOLVER.RELOCATE_EVERY": 100}
EPS = {"SOLVER.POINT_EPS": 1e-15}
SLOW = {"SOLVER.OPACITY_LR_FACTOR": 30, "SOLVER.POSITION_LR_FACTOR": 10, "SOLVER.WIDTH_LR_FACTOR": 10}
SLOWER = {"SOLVER.OPACITY_LR_FACTOR": 9, "SOLVER.POSITION_LR_FACTOR": 3, "SOLVER.WIDTH_LR_FACTOR": 3}
# As Kheradmand et al. 2024 have it: without a weight of the opacity hardly a splat becomes useless.
MCMC = RELOCATE | {"SOLVER.RELOCATE_BY": "opacity", "SOLVER.RELOCATE_BELOW": 0.01, "LOSS.OPACITY": 0.01}


def questions() -> tuple[Question, ...]:
    """Return every table of the study."""
    layers = int(RECOMMENDED_KEYS["INPUT.LAYER_NUM"])
    mse = {"LOSS.L1": 0, "LOSS.SSIM": 0, "LOSS.MSE": 1}
    one, four = _layered("1"), _layered("4", INPUT__LAYER_NUM=4)
    return (
        Question("form", "Form: published, layered, blended", (
            ("published settings", Variant("published", PUBLISHED)),
            ("published settings without the perceptual term", Variant("published-mse", PUBLISHED | {
                "LOSS.PERCEPTUAL": 0})),
            ("layered, tuned, 1 layer", one),
            ("layered, tuned, 2 layers", _layered("2", INPUT__LAYER_NUM=2)),
            ("layered, tuned, 4 layers", four),
            ("layered, tuned, 6 layers", _layered("6", INPUT__LAYER_NUM=6)),
            ("blended (recommended)", BASE))),
        Question("strands", "Strands or blended", (
            ("blended (recommended)", BASE),
            ("blended, light network", Variant("light", LIGHT)),
            ("strands, light network", _strands_light()),
            ("strands", Variant("strands", STRANDS)),
            ("strands without network", Variant("strands-alone", STRANDS | {"MODEL.NETWORK": False})),
            *_shifted(1), *_shifted(10))),
        Question("population", "How many splats, and where", (
            ("blended (recommended)", BASE),
            ("strands, light network: a splat a point", _strands_light()),
            ("moved by gradient", _strands_light("relocate", RELOCATE)),
            *((f"moved by gradient, below {below:g} of the mean", _strands_light(
                f"relocate-below-{below:g}", RELOCATE | {"SOLVER.RELOCATE_BELOW": below})) for below in (0.05, 0.5)),
            ("moved by opacity, opacity weighted, as of MCMC", _strands_light("mcmc", MCMC)),
            ("opacity weighted, none moved", _strands_light("opacity", {"LOSS.OPACITY": 0.01})),
            *((f"moved, {count:,} splats", _strands_light(f"relocate-{count}", RELOCATE | {"MODEL.MAX_SPLATS": count}))
              for count in (45_000, 180_000)),
            ("moved, sizes weighted", _strands_light("relocate-size", RELOCATE | {"LOSS.SIZE": 0.01})),
            ("strands without network, moved", Variant("strands-alone-relocate", STRANDS | RELOCATE | {
                "MODEL.NETWORK": False})),
            ("splats alone: no network, no strands to start from, moved", Variant("splats-alone", STRANDS | RELOCATE | {
                "MODEL.NETWORK": False, "MODEL.STRANDS": False})))),
        Question("heart", "Against learning by heart", (
            ("blended (recommended)", BASE),
            ("strands, light network", _strands_light()),
            *((f"{share:.0%} of the splats left out at the end", _strands_light(f"drop-{share * 100:g}", {
                "SOLVER.DROP_SPLATS": share})) for share in (0.1, 0.2, 0.4)),
            ("20% left out, images shifted by up to 1 pixel", _strands_light("drop-20-shift-1", {
                "SOLVER.DROP_SPLATS": 0.2, "DATASETS.SHIFT": 1})),
            ("the same, epsilon 1e-15", _strands_light("drop-20-shift-1-eps", EPS | {
                "SOLVER.DROP_SPLATS": 0.2, "DATASETS.SHIFT": 1})),
            ("the same, and moved", _strands_light("drop-20-shift-1-relocate", RELOCATE | {
                "SOLVER.DROP_SPLATS": 0.2, "DATASETS.SHIFT": 1})),
            ("20% left out, in cells of 4 spacings", _strands_light("drop-cells-20", {
                "SOLVER.DROP_SPLATS": 0.2, "SOLVER.DROP_CELL": 4})),
            ("high harmonics left out every other step", _strands_light("drop-harmonics", {
                "SOLVER.DROP_HARMONICS": 0.5})),
            ("opacity and size weighted", _strands_light("regularized", {"LOSS.OPACITY": 0.01, "LOSS.SIZE": 0.01})),
            ("all of these, and moved", _strands_light("all", RELOCATE | {
                "SOLVER.DROP_SPLATS": 0.2, "SOLVER.DROP_HARMONICS": 0.5, "LOSS.OPACITY": 0.01, "LOSS.SIZE": 0.01})))),
        Question("eps", "Adam's epsilon of the points, and their rates", (
            ("blended, 1e-8 (recommended)", BASE),
            ("blended, 1e-15", Variant("eps", EPS)),
            ("blended, 1e-15, a third of the rates", Variant("eps-slow", EPS | SLOW)),
            ("strands, light network, 1e-8", _strands_light()),
            ("strands, light network, 1e-15", _strands_light("eps", EPS)),
            ("strands, light network, 1e-15, a third of the rates", _strands_light("eps-slow", EPS | SLOW)),
            ("strands, light network, 1e-15, a tenth of the rates", _strands_light("eps-slower", EPS | SLOWER)))),
        Question("layers", "Layers of the blended form", _each("layers", "INPUT.LAYER_NUM", (1, 2, 4, 6, 16, 32))),
        Question("peeling", "Peeling by points or by pixels", (
            *_each("peeling", "PROJECTION.PEELING", ("point", "pixel"), "blended, "),
            ("layered, 4 layers, point", four),
            ("layered, 4 layers, pixel", _layered("4-pixel", INPUT__LAYER_NUM=4, PROJECTION__PEELING="pixel")))),
        Question("schedule", "All layers from the start, or one more each epoch", (
            ("blended, all at once (recommended)", BASE),
            ("blended, one more each epoch", Variant("schedule", {
                "SOLVER.LAYER_SCHEDULE": list(range(2, layers + 1))})),
            ("layered, 4 layers at once", four),
            ("layered, one more each epoch, to 4", _layered("4-schedule", INPUT__LAYER_NUM=4,
                                                            SOLVER__LAYER_SCHEDULE=[2, 3, 4])))),
        Question("norm", "Norm of the layered form", (
            ("instance: per image, as published", one),
            ("batch: running statistics", _layered("1-batch", MODEL__NORM="batch")),
            ("none", _layered("1-none", MODEL__NORM="none")))),
        Question("decay", "Decay of the view-dependent color", _each("decay", "SOLVER.HARMONICS_DECAY", (0, 0.3, 4))),
        Question("dots", "Soft dots along a point's strand", _each("dots", "MODEL.DOTS", (1, 3, 7))),
        Question("features", "Features per point", _each("features", "MODEL.FEATURE_DIM", (4, 8, 16, 32))),
        Question("width", "Channels of the light network", _each("width", "MODEL.WIDTH", (8, 16, 32))),
        Question("harmonics", "View-dependent color", _each("harmonics", "MODEL.HARMONICS", (0, 1, 2, 3), "degree ")),
        Question("loss", "Loss terms", (
            ("recommended", BASE),
            ("L1 alone", Variant("loss-l1", mse | {"LOSS.L1": 1, "LOSS.MSE": 0})),
            ("MSE alone", Variant("loss-mse", mse)),
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


def _shifted(pixels: int) -> tuple[tuple[str, Variant], ...]:
    """Both forms, trained with images shifted by up to so many pixels."""
    shift = {"DATASETS.SHIFT": pixels}
    return ((f"blended, shift {pixels}", Variant(f"shift-{pixels}", shift)),
            (f"strands, light network, shift {pixels}", _strands_light(f"shift-{pixels}", shift)))


def _strands_light(name: str = "", overrides: Mapping[str, Any] | None = None) -> Variant:
    """The strands form with the light network and some keys changed."""
    return Variant(f"strands-light-{name}" if name else "strands-light", STRANDS | LIGHT | dict(overrides or {}))


def _layered(name: str, **overrides: Any) -> Variant:
    """`LAYERED` with `SECTION__KEY=value` replaced."""
    return Variant(f"layered-{name}", LAYERED | {key.replace("__", "."): value for key, value in overrides.items()})
