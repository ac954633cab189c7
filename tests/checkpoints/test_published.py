# SPDX-License-Identifier: Apache-2.0
"""Models of the published code are read, whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from npcr.checkpoints import load_model, save_model
from npcr.checkpoints.published import is_published, read_published
from npcr.errors import CheckpointError
from npcr.renderers import LayeredRenderer
from npcr.renderers.gated_unet import GatedUNet
from tests.checkpoints.published_model import FEATURES, POINTS, write

CONTAINERS = pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])


@CONTAINERS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_weight_arrives_in_its_place(
    published: nn.Module, tmp_path: Path, stream: bool, norm: str
) -> None:
    path = write(published, tmp_path / "nr_model_37.pth", stream)
    checkpoint = read_published(path, norm)

    assert (checkpoint.epoch, checkpoint.points, checkpoint.colors) == (37, [], [])
    assert checkpoint.config == {
        "MODEL": {"LEGACY": True, "NORM": norm, "FEATURE_DIM": FEATURES},
        "INPUT": {"USE_RGB": False, "LAYER_NUM": 3, "SIZE_TRAIN": [60, 48]},
        "WEIGHTS": {"DEPTH_THR": 0.25},
    }
    renderer = LayeredRenderer([torch.zeros(n, 3) for n in POINTS], feature_dim=FEATURES, norm=norm)
    renderer.load_state_dict(checkpoint.model, strict=True)

    theirs = published.state_dict()
    expected = {ours: theirs[name] for ours, name in spelled_out(norm).items()}
    expected["default_feature"] = theirs["pcpr_parameters.default_features"][:, 0]
    for frame in (0, 1):
        expected[f"features.{frame}"] = theirs[f"pcpr_parameters.p_parameters.{frame}"].T
    assert expected.keys() == checkpoint.model.keys()
    for name, value in expected.items():
        assert torch.equal(checkpoint.model[name], value), name
        assert checkpoint.model[name].is_contiguous()


def spelled_out(norm: str) -> dict[str, str]:
    """Our name of every network weight to the published one, by a rule written apart from the converter's."""
    stages = [("enter", "inc.conv")] + [(f"down{i}.conv", f"down{i}.mpconv.2") for i in range(1, 5)]
    stages += [(f"up{i}.conv", f"up{i}.conv") for i in range(1, 5)]
    stages += [
        ("alpha_enter", "inc2.conv"),
        ("alpha_down1.conv", "down5.mpconv.2"),
        ("alpha_down2.conv", "down6.mpconv.2"),
        ("alpha_up1.conv", "up5.conv"),
        ("alpha_up2.conv", "up6.conv"),
    ]
    names = {}
    for ours, theirs in stages:
        for number, position in ((1, 0), (2, 3)):
            for leaf in ("weight", "bias"):
                names[f"{ours}.conv{number}.conv.{leaf}"] = f"{theirs}.conv.{position}.conv2.{leaf}"
                names[f"{ours}.conv{number}.gate.{leaf}"] = f"{theirs}.conv.{position}.conv2_gate.{leaf}"
                names[f"{ours}.norm{number}.{leaf}"] = f"{theirs}.conv.{position + 1}.{leaf}"
            for leaf in ("running_mean", "running_var", "num_batches_tracked") if norm == "batch" else ():
                names[f"{ours}.norm{number}.{leaf}"] = f"{theirs}.conv.{position + 1}.{leaf}"
    for ours, theirs in (("out", "outc"), ("alpha_out", "outc2")):
        for leaf in ("weight", "bias"):
            names[f"{ours}.point.{leaf}"] = f"{theirs}.conv.{leaf}"
            names[f"{ours}.spatial.{leaf}"] = f"{theirs}.conv2.{leaf}"
    return {f"network.{ours}": f"render.unet.{theirs}" for ours, theirs in names.items()}


@CONTAINERS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_load_model_meets_published_files(published: nn.Module, tmp_path: Path, stream: bool) -> None:
    path = write(published, tmp_path / "other name.pth", stream)
    assert is_published(path)
    checkpoint = load_model(path)
    assert checkpoint.epoch == 0
    save_model(tmp_path / "converted.pth", checkpoint)
    assert not is_published(tmp_path / "converted.pth")
    again = load_model(tmp_path / "converted.pth")
    assert again.config == checkpoint.config
    assert all(torch.equal(again.model[name], value) for name, value in checkpoint.model.items())


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_a_truncated_stream_is_called_so(published: nn.Module, tmp_path: Path, share: float) -> None:
    path = write(published, tmp_path / "m.pth", stream=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"m\.pth: truncated"):
        load_model(path)


def test_a_missing_and_a_foreign_part_are_named(published: nn.Module, tmp_path: Path) -> None:
    published.render.unet.up9 = nn.Conv2d(1, 1, 1)
    path = tmp_path / "m.pth"
    torch.save(published, path)
    with pytest.raises(CheckpointError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: not a published model: it has render.unet.up9.bias, (1,), for which the "
        "network has no place"
    )
    del published.render.unet.up9, published.render.unet.up6
    torch.save(published, path)
    with pytest.raises(CheckpointError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: not a published model: it lacks render.unet.up6.conv.conv.0.conv2.weight "
        "and 11 more weights"
    )


# --- the parity file


def test_parity_file(parity: Path, tmp_path: Path) -> None:
    path = parity / "nr_model_0.pth"
    checkpoint = load_model(path)
    assert checkpoint.config == {
        "MODEL": {"LEGACY": True, "NORM": "instance", "FEATURE_DIM": 32},
        "INPUT": {"USE_RGB": False, "LAYER_NUM": 4, "SIZE_TRAIN": [120, 96]},
        "WEIGHTS": {"DEPTH_THR": 0.5},
    }
    network = GatedUNet(35, "instance")
    network.load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in checkpoint.model.items()
            if name.startswith("network.")
        },
        strict=True,
    )
    assert checkpoint.model.keys() == {f"network.{name}" for name in network.state_dict()} | {
        "default_feature",
        "features.0",
    }
    batch = read_published(path, "batch")
    GatedUNet(35, "batch").load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in batch.model.items()
            if name.startswith("network.")
        }
    )
    # Storage numbers and shapes below were read off the file's own listing, by eye.
    with zipfile.ZipFile(path) as archive:
        for name, number, shape in (
            ("network.enter.conv1.conv.weight", 4, (24, 35, 3, 3)),
            ("network.enter.conv1.conv.bias", 5, (24,)),
            ("network.enter.conv1.gate.weight", 6, (24, 35, 3, 3)),
            ("network.enter.norm1.weight", 8, (24,)),
            ("network.enter.norm1.running_var", 11, (24,)),
            ("network.enter.conv2.gate.weight", 15, (24, 24, 3, 3)),
            ("network.down1.conv.conv1.conv.weight", 23, (48, 24, 3, 3)),
            ("network.up1.conv.conv1.gate.weight", 100, (192, 768, 3, 3)),
            ("network.out.point.weight", 170, (3, 30, 1, 1)),
            ("network.alpha_out.spatial.bias", 269, (1,)),
        ):
            stored = np.frombuffer(archive.read(f"nr_model_0/data/{number}"), "<f4").reshape(shape)
            np.testing.assert_array_equal(batch.model[name].numpy(), stored, err_msg=name)
        features = np.frombuffer(archive.read("nr_model_0/data/1"), "<f4").reshape(32, 6000)
        np.testing.assert_array_equal(checkpoint.model["features.0"].numpy(), features.T)


# --- damaged archives


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Copy an archive entry by entry; `change` gives an entry's new content, None leaves it out."""
    copy = path.with_name("changed.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w", compression) as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda name, data: data[:-4] if name.endswith("data/0") else data,
            r"storage 0 has \d+ bytes; it needs \d+, not",
        ),
        (lambda name, data: None if name.endswith("data/0") else data, "holds no data for storage 0"),
        (
            lambda name, data: b"big" if name.endswith("byteorder") else data,
            "written on a big-endian machine",
        ),
        (lambda name, data: None if name.endswith("data.pkl") else data, "not one that torch.save wrote"),
    ],
    ids=["short storage", "no storage", "big endian", "no pickle"],
)
def test_damaged_archives(
    published: nn.Module, tmp_path: Path, change: Callable[[str, bytes], bytes | None], message: str
) -> None:
    path = write(published, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=rf"changed\.pth: .*{message}"):
        read_published(rewritten(path, change))


def test_a_compressed_archive_is_refused(published: nn.Module, tmp_path: Path) -> None:
    path = write(published, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"an archive, but not one that torch\.save wrote"):
        read_published(rewritten(path, lambda name, data: data, zipfile.ZIP_DEFLATED))
