# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import pytest

from npcr.config import (
    KEYS,
    default_config,
    dump_config,
    explicit_keys,
    from_dict,
    load_beside,
    load_config,
    to_dict,
    unread_keys,
)
from npcr.config.schema import UNLIMITED
from npcr.errors import ConfigError
from npcr.numerics import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(file.name for file in (ROOT / "configs").glob("*.yml")))
def test_shipped_configurations_load(name: str) -> None:
    assert load_config(ROOT / "configs" / name).INPUT.LAYER_NUM >= 1


def test_published_values() -> None:
    cfg = load_config(ROOT / "configs" / "Hair2.yml")
    assert cfg.INPUT.NEAR_FAR_SIZE == [0.05, 0.7, 1.0]
    assert cfg.INPUT.LAYER_NUM == 6
    assert cfg.WEIGHTS.RENDER_WEIGHTS == [0.5, 0.12, 0.12, 0.08, 0.08, 0.08, 0.02]
    assert (cfg.WEIGHTS.DEPTH_THR, cfg.BACKGROUND_GRAY) == (0.05, 60)
    wolf = load_config(ROOT / "configs" / "Wolf.yml")
    assert (wolf.INPUT.SIZE_RAW, wolf.INPUT.SIZE_TRAIN) == ([1920, 1080], [768, 432])


def test_parity_configuration_loads_unchanged(parity: Path) -> None:
    cfg = load_config(parity / "config.yml")
    assert cfg.INPUT.SIZE_TRAIN == [120, 96]
    assert Path(cfg.DATASETS.TRAIN) == parity / "scene"  # relative to the file, since not found from here


def test_options_override_the_file_and_are_explicit(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("SOLVER:\n  BASE_LR: 5e-5\n  MAX_EPOCHS: 3\nDATASETS:\n  TRAIN: [./data]\n")
    options = ["SOLVER.MAX_EPOCHS", "7", "INPUT.USE_RGB", "true", "DATASETS.CENTER", "[[1, 2], (3, 4)]"]
    cfg = load_config(file, options)
    assert cfg.SOLVER.BASE_LR == 5e-5  # YAML 1.1 reads 5e-5 as text
    assert cfg.SOLVER.MAX_EPOCHS == 7
    assert cfg.INPUT.USE_RGB is True
    assert cfg.DATASETS.CENTER == [1, 2, 3, 4]
    assert cfg.DATASETS.TRAIN == "./data"
    assert explicit_keys(file, options) == {"SOLVER.BASE_LR", "SOLVER.MAX_EPOCHS", "DATASETS.TRAIN", "INPUT.USE_RGB",
                                            "DATASETS.CENTER"}
    assert explicit_keys(None, options) == {"SOLVER.MAX_EPOCHS", "INPUT.USE_RGB", "DATASETS.CENTER"}
    file.write_text("MODEL:\nOUTPUT_DIR: here\n")  # an empty section is no key
    assert explicit_keys(file) == {"OUTPUT_DIR"}
    assert explicit_keys() == frozenset()


def test_the_result_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load_config().INPUT.LAYER_NUM = 3


def test_writing_and_reading_gives_the_same(tmp_path: Path) -> None:
    cfg = load_config(None, ["SOLVER.STEPS", "[3, 9]", "DATASETS.TRAIN", "a b", "WEIGHTS.DEPTH_THR", "0.1"])
    dump_config(cfg, tmp_path / "config.yml")
    assert load_config(tmp_path / "config.yml") == cfg
    assert from_dict(to_dict(cfg), "memory") == cfg


def test_the_configuration_beside_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = tmp_path / "res_3" / "rgba"
    frames.mkdir(parents=True)
    assert load_beside([frames]) == default_config()
    (tmp_path / "res_3" / "config.yml").write_text("BACKGROUND_GRAY: 60\n")
    for path in (frames, tmp_path / "res_3", tmp_path / "res_3" / "video.mp4"):
        assert load_beside([tmp_path / "other" / "rgba", path]).BACKGROUND_GRAY == 60
    (tmp_path / "res_3" / "config.yml").write_text("FOREGROUND: 60\n")
    assert load_beside([frames]) == default_config()
    assert "its settings are not used" in caplog.text
    assert "unknown key FOREGROUND" in caplog.text


def test_every_default_passes() -> None:
    load_config()


@pytest.mark.parametrize(("text", "names"), [
    ("gif", ["gif"]), ("h264,vp9", ["h264", "vp9"]), ("[h264, gif, h264]", ["h264", "gif"]),
    ("['prores']", ["prores"]), ("none", []), ("[]", []),
])
def test_lists_of_names(text: str, names: list[str], tmp_path: Path) -> None:
    cfg = load_config(None, ["RENDER.VIDEO", text])
    assert names == cfg.RENDER.VIDEO
    dump_config(cfg, tmp_path / "config.yml")
    assert load_config(tmp_path / "config.yml") == cfg
    assert names == load_config(_yaml(tmp_path, f"RENDER: {{VIDEO: {names}}}")).RENDER.VIDEO


def test_a_name_that_is_none_of_them() -> None:
    with pytest.raises(ConfigError, match=r"RENDER\.VIDEO is \['h264', 'av1'\]; allowed: h264, h265, vp9"):
        load_config(None, ["RENDER.VIDEO", "h264,av1"])
    with pytest.raises(ConfigError, match=r"RENDER\.VIDEO is 5 \(int\); it needs a list of names"):
        load_config(None, ["RENDER.VIDEO", "5"])


def _yaml(folder: Path, text: str) -> Path:
    file = folder / "written.yml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if key.range != UNLIMITED])
def test_ranges_are_enforced(key: str) -> None:
    low, _ = KEYS[key].range
    default = default_config()
    for name in key.split("."):
        default = default[name]
    value = low - 1
    text = str([value] * max(len(default), 1)) if isinstance(default, list) else str(value)
    with pytest.raises(ConfigError, match=f"command line: {key} is"):
        load_config(None, [key, text])


def test_every_key_is_read_somewhere() -> None:
    """No option that nothing reads: each leaf's name occurs in the code outside the definitions."""
    code = "".join(file.read_text(encoding="utf-8") for folder in ("npcr", "tools")
                   for file in (ROOT / folder).rglob("*.py") if ROOT / "npcr/config" not in file.parents)
    unread = [key for key in KEYS
              if f".{key.split('.')[-1]}" not in code and f"solver.{key.split('.')[-1]}" not in code]
    assert not unread


@pytest.mark.parametrize("key", ["MODEL.LEGACY", "SOLVER.RECOMPUTE_LAYERS"])
def test_keys_of_one_form_are_refused_with_another(key: str) -> None:
    load_config(None, ["MODEL.FORM", "layered", key, "True"])
    with pytest.raises(ConfigError, match=rf"{key} True is for MODEL.FORM layered; here it is blended"):
        load_config(None, ["MODEL.FORM", "blended", key, "True"])


def test_keys_that_the_form_does_not_read_are_known_where_somebody_set_them(tmp_path: Path) -> None:
    file = tmp_path / "scene.yml"
    file.write_text("INPUT: {NEAR_FAR_SIZE: [1, 2, 0.5], LAYER_NUM: 64}\nMODEL: {DOTS: 1}\n")
    assert unread_keys(load_config(file, ["MODEL.FORM", "blended"])) == []
    unread = ["INPUT.LAYER_NUM", "PROJECTION.PEELING"]
    options = ["MODEL.FORM", "strands", "PROJECTION.PEELING", "pixel"]
    assert unread_keys(load_config(file, options)) == unread  # every scene.yml has NEAR_FAR_SIZE
    options += ["INPUT.NEAR_FAR_SIZE", "[1, 3, 1]"]
    assert unread_keys(load_config(file, options)) == ["INPUT.NEAR_FAR_SIZE", *unread]
    assert unread_keys(load_config(None, ["MODEL.FORM", "strands"])) == []


@pytest.mark.parametrize("value", [True, False])
def test_files_of_older_versions_still_load(value: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "npcr"):
        cfg = load_config(_yaml(tmp_path, f"SOLVER: {{AMP: {value}, SEED: 3}}"))
    assert cfg.SOLVER.SEED == 3
    assert cfg.SOLVER.PRECISION == "float32"
    assert ("written.yml: SOLVER.AMP True has no effect now" in caplog.text) == value


@pytest.mark.parametrize("key", ["RENDER.PRECISION", "SOLVER.PRECISION"])
def test_precisions_are_those_that_can_be_computed_in(key: str) -> None:
    assert KEYS[key].choices == tuple(PRECISIONS)
