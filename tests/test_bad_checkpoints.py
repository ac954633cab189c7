# SPDX-License-Identifier: Apache-2.0
"""What a user sees for broken checkpoints: one row each, with the whole message. FILE stands for the path."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from npcr.checkpoints import load_model, load_training_state, make_checkpoint, save_training_state
from npcr.config import explicit_keys, load_config, to_dict
from npcr.errors import CheckpointError
from npcr.factory import build_renderer, load_renderer
from npcr.io.points import PointCloud
from tests.scenes import write_tiny_scene

Make = Callable[[Path], Any]

PUBLISHED = b"\x80\x02cmodeling.generatic_model\nGeneratic_Model\n)\x81}b."  # an empty module of that class


def content(**changes: Any) -> dict[str, Any]:
    """A good model file's content but for `changes`; None leaves an entry out."""
    entries = {
        "format": "npcr-model",
        "version": 1,
        "epoch": 3,
        "config": {},
        "points": [torch.zeros(5, 3)],
        "colors": [],
        "model": {"default_feature": torch.zeros(4), "features.0": torch.zeros(5, 4)},
    }
    return {key: value for key, value in {**entries, **changes}.items() if value is not None}


def saved(value: Any, **options: Any) -> Make:
    return lambda path: torch.save(value, path, **options)


def written(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def zipped(entries: dict[str, bytes]) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)

    return make


def cut(share: float) -> Make:
    def make(path: Path) -> None:
        torch.save(content(), path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def flipped(path: Path) -> None:
    with path.open("wb") as file:  # the archive's inner folder then has a name that does not vary
        torch.save(content(model={"default_feature": torch.zeros(4), "features.0": torch.ones(5, 4)}), file)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(20, 1, "<f4").tobytes())] ^= 1
    path.write_bytes(data)


class _Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


MODELS: dict[str, tuple[Make, str]] = {
    "missing": (lambda path: None, "FILE: no such checkpoint"),
    "a folder": (lambda path: path.mkdir(), "FILE: cannot be read: Is a directory"),
    "empty": (written(b""), "FILE: truncated (the file is empty)"),
    "cut off": (cut(0.5), "FILE: truncated (it ends after SIZE bytes, before its table of contents)"),
    "a pointer to the file": (
        written(b"version https://git-lfs.github.com/spec/v1\n"),
        "FILE: not a checkpoint (it begins with b'vers')",
    ),
    "a picture": (written(b"\x89PNG\r\n\x1a\n"), "FILE: not a checkpoint (it begins with b'\\x89PNG')"),
    "a flipped bit": (flipped, "FILE: damaged (the checksum of archive/data/2 is wrong)"),
    "another archive": (
        zipped({"readme.txt": b"hello"}),
        "FILE: an archive, but not one that torch.save wrote",
    ),
    "a list": (saved([torch.zeros(3)]), "FILE: its format is list; expected 'npcr-model'"),
    "bare weights": (
        saved({"conv.weight": torch.zeros(3)}),
        "FILE: its format is None; expected 'npcr-model'",
    ),
    "of a later release": (saved(content(version=2)), "FILE: its version is 2; this release reads 1"),
    "a training state": (
        lambda path: save_training_state(path, {}),
        "FILE: its format is 'npcr-training-state'; expected 'npcr-model'",
    ),
    "no weights": (saved(content(model=None)), "FILE: entry 'model' is missing; it must be dict"),
    "an epoch in words": (saved(content(epoch="three")), "FILE: entry 'epoch' is str; it must be int"),
    "weights that are lists": (
        saved(content(model={"default_feature": [0.0] * 4})),
        "FILE: 'model', 'points' and 'colors' must hold tensors only",
    ),
    "no default feature": (
        saved(content(model={"features.0": torch.zeros(5, 4)})),
        "FILE: the model has no weight default_feature of shape (C,)",
    ),
    "points in columns": (
        saved(content(points=[torch.zeros(3, 5)])),
        "FILE: the points of frame 0 are (3, 5) float32; they must be (N, 3) float32",
    ),
    "whole-number points": (
        saved(content(points=[torch.zeros(5, 3, dtype=torch.int32)])),
        "FILE: the points of frame 0 are (5, 3) int32; they must be (N, 3) float32",
    ),
    "more points than features": (
        saved(content(points=[torch.zeros(6, 3)])),
        "FILE: the weight features.0 is (5, 4) float32; the frame's points need (6, 4)",
    ),
    "a frame without features": (
        saved(content(points=[torch.zeros(5, 3), torch.zeros(7, 3)])),
        "FILE: the weight features.1 is missing; the frame's points need (7, 4)",
    ),
    "colors of other points": (
        saved(content(colors=[torch.zeros(4, 3, dtype=torch.uint8)])),
        "FILE: the colors ((4, 3) uint8) do not match the points ((5, 3) float32)",
    ),
    "a call of the system": (
        saved(content(config={"key": _Call()})),
        "FILE: refused: the file names posix.system; a checkpoint holds plain data only; nothing was run",
    ),
    "somebody else's module": (
        saved(torch.nn.Linear(1, 1)),
        "FILE: refused: the file names torch.nn.modules.linear.Linear; a checkpoint holds "
        "plain data only; nothing was run",
    ),
    "published, with a call": (
        zipped({"m/data.pkl": pickle.dumps([_Call()], 2)[:-2] + b"cmodeling.x\ny\ne."}),
        "FILE: refused: the file names posix.system, which is no tensor, container, or part "
        "of the published network; nothing was run",
    ),
    "published, empty": (
        zipped({"m/data.pkl": PUBLISHED}),
        "FILE: not a published model: it lacks pcpr_parameters.default_features and 176 more weights",
    ),
    "published, cut off": (
        written(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}." + PUBLISHED[:-3]),
        "FILE: truncated or damaged pickle (pickle exhausted before seeing STOP)",
    ),
    "published, of another kind": (
        zipped({"m/data.pkl": b"\x80\x02cmodeling.x\ny\n}\x86."}),
        "FILE: holds no model of the published implementation",
    ),
}
STATES: dict[str, tuple[Make, str]] = {
    "missing": (lambda path: None, "FILE: no such checkpoint"),
    "cut off": (cut(0.9), "FILE: truncated (it ends after SIZE bytes, before its table of contents)"),
    "a model": (saved(content()), "FILE: its format is 'npcr-model'; expected 'npcr-training-state'"),
    "of a later release": (
        saved({"format": "npcr-training-state", "version": 9}),
        "FILE: its version is 9; this release reads 1",
    ),
    "no state": (saved({"format": "npcr-training-state", "version": 1}), "FILE: entry 'state' is missing"),
}
ROWS = [
    pytest.param(load, make, message, id=f"{kind}: {name}")
    for kind, load, rows in (("model", load_model, MODELS), ("training state", load_training_state, STATES))
    for name, (make, message) in rows.items()
]


@pytest.mark.skipif(os.name == "nt", reason="the system words some messages otherwise there")
@pytest.mark.parametrize(("load", "make", "message"), ROWS)
def test_broken_files(tmp_path: Path, load: Callable[[Path], Any], make: Make, message: str) -> None:
    path = tmp_path / "nr_model_3.pth"
    make(path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    size = path.stat().st_size if path.exists() else 0
    assert str(caught.value) == message.replace("FILE", str(path)).replace("SIZE", str(size))


def test_the_rows_differ_from_a_good_file_only_as_said(tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth").epoch == 3


# --- whole files that do not fit the configuration or the scene


REMEDY = "use the config.yml beside it, or train anew in another OUTPUT_DIR"
CONFIG = """\
MODEL: {DEVICE: cpu, FEATURE_DIM: 4}
INPUT: {SIZE_RAW: [48, 36], SIZE_TEST: [32, 24]}
"""


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (
            ["MODEL.FEATURE_DIM", "8"],
            {},
            f"FILE: was trained with MODEL.FEATURE_DIM 4, the configuration says 8; {REMEDY}",
        ),
        (
            ["MODEL.NORM", "batch"],
            {},
            f"FILE: was trained with MODEL.NORM instance, the configuration says batch; {REMEDY}",
        ),
        ([], {"points": []}, "FILE: holds no points; name the scene's folder with DATASETS.TRAIN"),
        (
            ["DATASETS.TRAIN", "scene"],
            {"points": []},
            "FILE: features.0 is (9, 4), the configuration and scene need (20, 4) (a feature row per point: is "
            "this the cloud it was trained on?)",
        ),
        ([], {"model": "network.out.point.bias"}, "FILE: lacks network.out.point.bias"),
    ],
    ids=["feature count", "norm", "no points", "another cloud", "a weight too few"],
)
def test_files_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_scene(tmp_path / "scene", size=(48, 36), points=20)
    (tmp_path / "config.yml").write_text(CONFIG)
    cfg = load_config(tmp_path / "config.yml")
    clouds = [PointCloud(np.zeros((9, 3), np.float32), None)]
    checkpoint = make_checkpoint(build_renderer(cfg, clouds), clouds, to_dict(cfg), 3)
    checkpoint.points = change.get("points", checkpoint.points)
    checkpoint.model.pop(change.get("model", ""), None)
    path = tmp_path / "nr_model_3.pth"
    torch.save({"format": "npcr-model", "version": 1, **vars(checkpoint)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_renderer(load_config(tmp_path / "config.yml", options), path, torch.device("cpu"),
                      explicit=explicit_keys(tmp_path / "config.yml", options))
    assert str(caught.value) == message.replace("FILE", str(path))
