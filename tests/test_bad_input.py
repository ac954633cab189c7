# SPDX-License-Identifier: Apache-2.0
"""What a user sees for broken scenes and configurations: one row each, with the whole message.

SCENE and FILE stand for the scene's folder and the configuration file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from npcr.config import changed, load_config
from npcr.data.scene import load_clouds, load_scene
from npcr.errors import ConfigError, SceneError
from npcr.factory import open_scene
from tests.scenes import SIZE, write_tiny_scene

Change = Callable[[Path], Any]

POSE_ROW = "0 0 1 1 0 0 0 1 0 {} 8 9\n"  # a good row but for its tenth number
ORDER = "the order is z axis, x axis, y axis, center"
BLOCK = "0\n{}\n0 24 7.5\n0 0 1\n\n"


def _write(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return change


def _line(name: str, number: int, text: str) -> Change:
    """Replace a line (from 1); the empty text deletes it."""
    def change(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        lines[number - 1] = text + "\n" if text else ""
        (folder / name).write_text("".join(lines))
    return change


def _remove(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return change


def _copy(source: str, destination: str) -> Change:
    return lambda folder: shutil.copy(folder / source, folder / destination)


def _rename_all(by: int) -> Change:
    def change(folder: Path) -> None:
        for path in sorted((folder / "img" / "0").glob("img_*"), reverse=True):
            path.rename(path.with_name(f"img_{int(path.name[4:8]) + by:04d}{path.name[8:]}"))
    return change


def _picture(name: str, size: tuple[int, int], mode: str = "RGB") -> Change:
    return lambda folder: Image.new(mode, size).save(folder / name)


def _cut(name: str, keep: int) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    return change


def _cloud(suffix: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / "pointclouds" / "frame1.xyz").unlink()
        _write(f"pointclouds/frame1{suffix}", content)(folder)
    return change


def _array(values: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / "pointclouds" / "frame1.xyz").unlink()
        np.save(folder / "pointclouds" / "frame1.npy", np.array(values))
    return change


XYZ = "pointclouds/frame1.xyz"
PHOTO = "img/0/img_0002.png"
MATTE = "img/0/img_0003_alpha.png"
PLY = ("ply\nformat ascii 1.0\nelement {} 1\nproperty float x\nproperty float y\nproperty float {}\n"
       "end_header\n{}")

# (name, change to a good scene, message or its beginning ending in "...")
SCENES: list[tuple[str, Change, str]] = [
    # cameras
    ("no-poses", _remove("CamPose.inf"), "SCENE/CamPose.inf: no such file"),
    ("empty-poses", _write("CamPose.inf", "\n\n"),
     "SCENE/CamPose.inf: has no camera; it needs a row of 12 numbers for each"),
    ("short-pose", _line("CamPose.inf", 3, "0 0 1 1 0 0 0 1 0 7 8"),
     "SCENE/CamPose.inf, line 3: has 11 numbers; it needs 12"),
    ("word-in-pose", _line("CamPose.inf", 2, POSE_ROW.format("7,5").strip()),
     "SCENE/CamPose.inf, line 2: '7,5' is not a number: it has a decimal comma; write 7.5"),
    ("comma-between-numbers", _line("CamPose.inf", 2, POSE_ROW.format("7,").strip()),
     "SCENE/CamPose.inf, line 2: '7,' is not a number; separate numbers by blanks, without commas"),
    ("poses-with-commas", _line("CamPose.inf", 1, "0,0,1,1,0,0,0,1,0,7,8,9"),
     "SCENE/CamPose.inf, line 1: has 1 numbers; it needs 12; separate them by blanks, without commas"),
    ("typographic-minus", _line("CamPose.inf", 2, POSE_ROW.format("\N{MINUS SIGN}7").strip()),
     "SCENE/CamPose.inf, line 2: '\N{MINUS SIGN}7' is not a number: it has a typographic minus sign; write a hyphen"),
    ("fortran", _line("CamPose.inf", 2, POSE_ROW.format("7.0D+00").strip()),
     "SCENE/CamPose.inf, line 2: '7.0D+00' is not a number: it has Fortran's exponent; write e for d"),
    ("grouped-digits", _line("CamPose.inf", 2, POSE_ROW.format("7_000").strip()),
     "SCENE/CamPose.inf, line 2: '7_000' is not a number"),
    ("nan-in-pose", _line("CamPose.inf", 4, POSE_ROW.format("nan").strip()),
     "SCENE/CamPose.inf, line 4: nan is not finite"),
    ("stretched-pose", _line("CamPose.inf", 1, "0 0 1 1.01 0 0 0 1 0 7 8 9"),
     "SCENE/CamPose.inf, line 1: rotation is not orthonormal: the x axis has squared length 1.0201 "
     f"(tolerance 0.001); {ORDER}"),
    ("skewed-pose", _line("CamPose.inf", 2, "0 0.6 0.8 1 0 0 0 1 0 7 8 9"),
     "SCENE/CamPose.inf, line 2: rotation is not orthonormal: axes y and z have dot product 0.6 (tolerance "
     f"0.001); {ORDER}"),
    ("mirrored-pose", _line("CamPose.inf", 2, "0 0 1 0 1 0 1 0 0 7 8 9"),
     f"SCENE/CamPose.inf, line 2: rotation is left-handed (determinant -1); {ORDER}"),
    ("binary-poses", _write("CamPose.inf", b"0 0 1\n\xff\xfe"),
     "SCENE/CamPose.inf, line 2: not text in UTF-8 (byte 0xff; in another encoding, or binary?); save it as UTF-8"),
    ("poses-in-utf-16-without-a-mark", _write("CamPose.inf", POSE_ROW.format("7").encode("utf-16-le")),
     "SCENE/CamPose.inf, line 1: not text in UTF-8 (byte 0x00; UTF-16 without a mark at its start, or binary?); save "
     "it as UTF-8"),
    ("poses-like-utf-16", _write("CamPose.inf", b"\xff\xfe0"),
     "SCENE/CamPose.inf: starts as text in UTF-16, but is not; save it as UTF-8"),
    ("matrix-row-by-row", _line("CamPose.inf", 1, "0 -1 0 7 1 0 0 8 0 0 1 9"),
     "SCENE/CamPose.inf, line 1: rotation is not orthonormal: the y axis has squared length 64 (tolerance 0.001); its "
     f"numbers look like the rows of a 3x4 matrix; {ORDER}"),
    ("decimal-comma-in-k", _write("Intrinsic.inf", BLOCK.format("24,5 0 11,5")),
     "SCENE/Intrinsic.inf, line 2: '24,5' is not a number: it has a decimal comma; write 24.5"),
    ("no-intrinsics", _remove("Intrinsic.inf"), "SCENE/Intrinsic.inf: no such file"),
    ("empty-intrinsics", _write("Intrinsic.inf", ""),
     "SCENE/Intrinsic.inf: is empty; it needs an index line and three rows of K"),
    ("no-index-line", _line("Intrinsic.inf", 1, ""),
     "SCENE/Intrinsic.inf, line 1: '24.000000 0.000000 11.500000' is not a block index; a block is an index "
     "line, three rows of K and a blank line"),
    ("strange-index", _line("Intrinsic.inf", 1, "5"),
     "SCENE/Intrinsic.inf, line 1: block index 5; expected 0 or 1"),
    ("repeated-index", _write("Intrinsic.inf", BLOCK.format("24 0 11.5") * 2),
     "SCENE/Intrinsic.inf, line 6: block index 0; expected 1"),
    ("half-a-block", _line("Intrinsic.inf", 4, ""),
     "SCENE/Intrinsic.inf, line 3: block 0 ends after 2 of 3 rows"),
    ("negative-focal", _write("Intrinsic.inf", BLOCK.format("-24 0 11.5")),
     "SCENE/Intrinsic.inf, line 2: focal length fx is -24; it must be above 0"),
    ("short-row-of-k", _write("Intrinsic.inf", BLOCK.format("24 0")),
     "SCENE/Intrinsic.inf, line 2: has 2 numbers; it needs 3"),
    ("k-transposed", _write("Intrinsic.inf", "0\n24 0 0\n0 24 0\n11.5 7.5 1\n"),
     "SCENE/Intrinsic.inf, line 4: last row is 11.5 7.5 1.0; it must be 0 0 1; the matrix looks transposed"),
    ("k-below-diagonal", _line("Intrinsic.inf", 3, "2 24 7.5"),
     "SCENE/Intrinsic.inf, line 3: first number is 2; it must be 0"),
    ("too-few-blocks", _write("Intrinsic.inf", BLOCK.format("24 0 11.5") + "1\n25 0 11.5\n0 24 7.5\n0 0 1\n"),
     "SCENE/Intrinsic.inf: has 2 blocks for the 4 cameras of SCENE/CamPose.inf; it needs one for all or one "
     "for each"),
    # photographs
    ("no-img", _remove("img"),
     "SCENE/img: no such folder; photographs belong in img/0/img_0001.jpg and so on"),
    ("no-frame", lambda folder: (folder / "img" / "0").rename(folder / "img" / "first"),
     "SCENE/img/1: no such frame folder; DATASETS.FRAME_NUM 1 needs 1 to 1"),
    ("no-photographs", lambda folder: [path.unlink() for path in (folder / "img" / "0").iterdir()],
     "SCENE/img/0: has no photograph img_0001 (.jpg, .jpeg, .png)"),
    ("photograph-missing", _remove(PHOTO), "SCENE/img/0: photograph number 2 is missing; they run to 4"),
    ("last-photograph-missing", _remove("img/0/img_0004.png"),
     "SCENE/img/0: has 3 photographs for the 4 cameras of SCENE/CamPose.inf"),
    ("numbered-from-7", _rename_all(6),
     "SCENE/img/0/img_0007.png: is the first photograph; numbers start at 0 or 1"),
    ("number-twice", _copy(PHOTO, "img/0/img_2.png"),
     "SCENE/img/0/img_2.png: has the number of img_0002.png; keep one of them"),
    ("other-size", _picture(PHOTO, (16, 24)), "SCENE/img/0/img_0002.png: is 16x24; INPUT.SIZE_RAW is 24x16"),
    ("not-a-picture", _write(PHOTO, "hello"), "SCENE/img/0/img_0002.png: is not a picture"),
    ("empty-picture", _write(PHOTO, ""), "SCENE/img/0/img_0002.png: is not a picture"),
    ("cut-picture", _cut(PHOTO, 300),
     "SCENE/img/0/img_0002.png: cannot be decoded, it may be cut short: ..."),
    # mattes
    ("matte-missing", _remove(MATTE),
     "SCENE/img/0/img_0003.png: has no matte (img_0003_alpha.png, mask/img_0003.png, an alpha channel); 1 of "
     "4 photographs have none. DATASETS.MASK False does without"),
    ("matte-of-other-size", _picture(MATTE, (48, 32), "L"),
     "SCENE/img/0/img_0003_alpha.png: is 48x32; its photograph img_0003.png is 24x16"),
    ("matte-not-a-picture", _write(MATTE, "hello"), "SCENE/img/0/img_0003_alpha.png: is not a picture"),
    # point clouds
    ("no-clouds", _remove("pointclouds"),
     "SCENE/pointclouds: no such folder; it needs frame1.xzy (or .ply, .obj, .npy)"),
    ("no-cloud", _remove(XYZ),
     "SCENE/pointclouds: has no point cloud frame1 (.xzy, .xyz, .txt, .ply, .obj, .npy); DATASETS.FRAME_NUM "
     "1 needs 1 to 1"),
    ("two-clouds", _copy(XYZ, "pointclouds/frame1.txt"),
     "SCENE/pointclouds/frame1.xyz: has the number of frame1.txt; keep one of them"),
    ("empty-cloud", _write(XYZ, ""), "SCENE/pointclouds/frame1.xyz: has no points"),
    ("two-coordinates", _line(XYZ, 7, "1 2"),
     "SCENE/pointclouds/frame1.xyz, line 7: has 2 numbers; a point is x y z, or x y z r g b"),
    ("color-from-line-5", _line(XYZ, 5, "1 2 3 4 5 6"),
     "SCENE/pointclouds/frame1.xyz, line 5: has 6 numbers; the lines before have 3"),
    ("header-in-cloud", _line(XYZ, 1, "x y w"), "SCENE/pointclouds/frame1.xyz, line 1: 'x' is not a number"),
    ("commas", _line(XYZ, 2, "1, 2, 3"), "SCENE/pointclouds/frame1.xyz, line 2: '1,' is not a number; "
     "separate numbers by blanks, without commas"),
    ("nan-points", _write(XYZ, "# made by hand\n1 2 3\n4 nan 6\n7 8 9\ninf 0 0\n"),
     "SCENE/pointclouds/frame1.xyz, line 3: coordinates 4 nan 6 are not finite; 2 of 4 points are so"),
    ("color-out-of-range", _write(XYZ, "1 2 3 0 0 0\n1 2 3 0 256 0\n"),
     "SCENE/pointclouds/frame1.xyz, line 2: color 0 256 0 is out of 0-255; 1 of 2 points are so"),
    ("binary-cloud", _write(XYZ, b"\xff\xfe\x00\x01"), "SCENE/pointclouds/frame1.xyz, line 1: ..."),
    ("ply-not-ply", _cloud(".ply", "hello\n"),
     "SCENE/pointclouds/frame1.ply: is not a readable PLY file: ..."),
    ("ply-without-vertices", _cloud(".ply", PLY.format("face", "z", "1 2 3\n")),
     "SCENE/pointclouds/frame1.ply: has no element 'vertex'; it has 'face'"),
    ("ply-without-z", _cloud(".ply", PLY.format("vertex", "w", "1 2 3\n")),
     "SCENE/pointclouds/frame1.ply: vertices have no property z; they have x, y, w"),
    ("ply-cut", _cloud(".ply", PLY.format("vertex", "z", "1 2")),
     "SCENE/pointclouds/frame1.ply, line 8: '1 2' is not a row of the element 'vertex' ..."),
    ("obj-with-word", _cloud(".obj", "o a\nv 1 2 3\nv 1 2 b\n"),
     "SCENE/pointclouds/frame1.obj, line 3: 'b' is not a number"),
    ("obj-without-vertices", _cloud(".obj", "o a\n"), "SCENE/pointclouds/frame1.obj: has no points"),
    ("npy-cut", _cloud(".npy", b"\x93NUMPY"),
     "SCENE/pointclouds/frame1.npy: cannot be read as an array of numbers: ..."),
    ("npy-of-other-shape", _array([[1.0, 2.0]]),
     "SCENE/pointclouds/frame1.npy: array of shape (1, 2); it must be (N, 3) or (N, 6)"),
    ("npy-of-words", _array([["a", "b", "c"]]),
     "SCENE/pointclouds/frame1.npy: does not hold an array of numbers"),
    ("npy-infinite", _array([[0, 0, 0], [0, np.inf, 0]]),
     "SCENE/pointclouds/frame1.npy, point 2: coordinates 0 inf 0 are not finite; 1 of 2 points are so"),
]

# (name, options to load_scene, message)
OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("too-many-frames", {"frame_num": 2},
     "SCENE/pointclouds: has no point cloud frame2 (.xzy, .xyz, .txt, .ply, .obj, .npy); DATASETS.FRAME_NUM "
     "2 needs 1 to 2"),
    ("size-raw", {"size_raw": [800, 600]}, "SCENE/img/0/img_0001.png: is 24x16; INPUT.SIZE_RAW is 800x600"),
    ("odd-center", {"center": [8, 12, 8]}, "DATASETS.CENTER has 3 numbers; it needs pairs of [y, x]"),
    ("more-centers-than-cameras", {"center": [8, 12] * 5},
     "DATASETS.CENTER has 5 pairs of [y, x] for 4 cameras"),
    ("center-swapped", {"center": [20, 8]},
     "DATASETS.CENTER [20, 8] lies outside the picture of 24x16; the order is [y, x]"),
]


def _load(folder: Path, options: dict[str, Any]) -> None:
    settings = {"size_raw": SIZE, "frame_num": 1, "mask": True, "center": []} | options
    load_scene(folder, **settings)
    load_clouds(folder, settings["frame_num"])


def _check(message: str, expected: str) -> None:
    assert "\n" not in message
    if expected.endswith("..."):
        assert message.startswith(expected[:-3])
        assert len(message) > len(expected)
    else:
        assert message == expected


def test_the_scene_is_good_before_it_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _load(write_tiny_scene(tmp_path / "s"), {})
    assert not caplog.records


@pytest.mark.parametrize(("change", "message"), [row[1:] for row in SCENES], ids=[row[0] for row in SCENES])
def test_broken_scenes(tmp_path: Path, change: Change, message: str) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    change(folder)
    with pytest.raises(SceneError) as caught:
        _load(folder, {})
    assert caught.type is SceneError
    _check(str(caught.value).replace(str(folder), "SCENE"), message)


@pytest.mark.parametrize(("options", "message"), [row[1:] for row in OPTIONS],
                         ids=[row[0] for row in OPTIONS])
def test_scenes_that_do_not_fit_the_configuration(tmp_path: Path, options: dict[str, Any],
                                                  message: str) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    with pytest.raises(SceneError) as caught:
        _load(folder, options)
    _check(str(caught.value).replace(str(folder), "SCENE"), message)


def test_a_scene_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"^.*/nowhere: no such scene folder$"):
        _load(tmp_path / "nowhere", {})
    with pytest.raises(SceneError, match=r"^DATASETS.TRAIN is empty; it names the scene's folder$"):
        load_scene("", size_raw=SIZE, frame_num=1, mask=True, center=[])


@pytest.mark.parametrize(("text", "options", "message"), [
    ("DATASETS:\n  MASK: True\n", [],
     "FILE: DATASETS.TRAIN is empty; name the scene's folder, such as DATASETS.TRAIN datasets/cat"),
    ("DATASETS:\n  TRAIN: s\n", ["DATASETS.TRAIN", ""],
     "command line: DATASETS.TRAIN is empty; name the scene's folder, such as DATASETS.TRAIN datasets/cat"),
    ("DATASETS:\n  TRAIN: nowhere\n", [], "nowhere: no such scene folder; DATASETS.TRAIN names it (FILE)"),
    ("DATASETS:\n  TRAIN: s\n", ["DATASETS.TRAIN", "nowhere"],
     "nowhere: no such scene folder; DATASETS.TRAIN names it (command line)"),
    ("DATASETS:\n  TRAIN: s\n  CENTER: [20, 8]\nINPUT:\n  SIZE_RAW: [24, 16]\n", [],
     "DATASETS.CENTER [20, 8] lies outside the picture of 24x16; the order is [y, x] (configuration: FILE)"),
    ("DATASETS:\n  TRAIN: s\n", ["INPUT.SIZE_RAW", "[24, 24]"],
     "SCENE/img/0/img_0001.png: is 24x16; INPUT.SIZE_RAW is 24x24 (configuration: command line)"),
])
def test_what_the_configuration_says_of_the_scene_names_its_file(tmp_path: Path, text: str, options: list[str],
                                                                message: str) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    file = tmp_path / "c.yml"
    file.write_text(text)
    cfg = changed(load_config(file, options), LOAD_EPOCH=3)  # a copy knows it, too
    with pytest.raises((ConfigError, SceneError)) as caught:
        open_scene(cfg, cfg.DATASETS.TRAIN)
    _check(str(caught.value).replace(str(file), "FILE").replace(str(folder), "SCENE"), message)


def test_a_test_scene_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("DATASETS:\n  TRAIN: s\n  TEST: held_out\n")
    cfg = load_config(tmp_path / "c.yml")
    with pytest.raises(SceneError, match=r"^held_out: no such scene folder; DATASETS.TEST names it \(.*/c.yml\)$"):
        open_scene(cfg, cfg.DATASETS.TEST)


# (name, YAML, KEY VALUE pairs, message)
CONFIGS: list[tuple[str, str | bytes, list[str], str]] = [
    ("not-yaml", "MODEL:\n  DEVICE: [cpu\n", [], "FILE, line 3: not YAML: ..."),
    ("tab", "MODEL:\n\tDEVICE: cpu\n", [], "FILE, line 2: not YAML: ..."),
    ("not-text", b"\xff\xfe", [], "FILE: cannot be read: ..."),
    ("no-sections", "just words\n", [], "FILE: needs sections such as 'MODEL:', found str"),
    ("a-list", "- 1\n- 2\n", [], "FILE: needs sections such as 'MODEL:', found list"),
    ("unknown-section", "MODLE:\n  DEVICE: cpu\n", [],
     "FILE: unknown key MODLE; sections and keys: MODEL, INPUT, ..."),
    ("unknown-key", "MODEL:\n  DEVISE: cpu\n", [],
     "FILE: unknown key MODEL.DEVISE; keys under MODEL: DEVICE, ..."),
    ("value-for-section", "MODEL: cpu\n", [], "FILE: MODEL is a section with keys DEVICE, ..."),
    ("word-for-number", "INPUT:\n  LAYER_NUM: many\n", [],
     "FILE: INPUT.LAYER_NUM is 'many' (str); it needs a whole number, such as 1"),
    ("fraction-for-whole", "INPUT:\n  LAYER_NUM: 1.5\n", [],
     "FILE: INPUT.LAYER_NUM is 1.5 (float); it needs a whole number, such as 1"),
    ("number-for-switch", "INPUT:\n  USE_RGB: 1\n", [],
     "FILE: INPUT.USE_RGB is 1 (int); it needs True or False, such as False"),
    ("switch-for-number", "SOLVER:\n  BASE_LR: True\n", [],
     "FILE: SOLVER.BASE_LR is True (bool); it needs a number, such as 5e-05"),
    ("number-for-list", "INPUT:\n  SIZE_RAW: 800\n", [],
     "FILE: INPUT.SIZE_RAW is 800 (int); it needs a list of numbers, such as [800, 800]"),
    ("infinite", "SOLVER:\n  BASE_LR: .inf\n", [],
     "FILE: SOLVER.BASE_LR is inf (float); it needs a number, such as 5e-05"),
    ("not-a-choice", "MODEL:\n  NORM: layer\n", [],
     "FILE: MODEL.NORM is 'layer'; allowed: instance, batch, none"),
    ("below-range", "INPUT:\n  LAYER_NUM: 0\n", [],
     "FILE: INPUT.LAYER_NUM is 0; each number must be from 1 to 256"),
    ("tiny-picture", "INPUT:\n  SIZE_TRAIN: [600, 8]\n", [],
     "FILE: INPUT.SIZE_TRAIN is [600, 8]; each number must be from 24 to 16384"),
    ("three-sizes", "INPUT:\n  SIZE_TRAIN: [600, 600, 300]\n", [],
     "FILE: INPUT.SIZE_TRAIN has 3 numbers; it needs 2"),
    ("device", "MODEL:\n  DEVICE: gpu\n", [], "FILE: MODEL.DEVICE is 'gpu'; allowed: cuda, cpu, cuda:N"),
    ("near-beyond-far", "INPUT:\n  NEAR_FAR_SIZE: [9, 3, 1]\n", [],
     "FILE: INPUT.NEAR_FAR_SIZE has near 9 not below far 3"),
    ("odd-center", "DATASETS:\n  CENTER: [400]\n", [],
     "FILE: DATASETS.CENTER has 1 numbers; it needs pairs of [y, x]"),
    ("all-held-out", "DATASETS:\n  HOLDOUT_EVERY: 1\n", [],
     "FILE: DATASETS.HOLDOUT_EVERY 1 leaves no camera to train on; use 0 or at least 2"),
    ("two-test-sets", "DATASETS:\n  HOLDOUT_EVERY: 4\n  TEST: other\n", [],
     "FILE: DATASETS.TEST and DATASETS.HOLDOUT_EVERY both name held-out views; give one of them"),
    ("schedule-backwards", "INPUT:\n  LAYER_NUM: 3\nSOLVER:\n  LAYER_SCHEDULE: [9, 4]\n", [],
     "FILE: SOLVER.LAYER_SCHEDULE is [9, 4]; the epochs must increase"),
    ("schedule-too-long", "SOLVER:\n  LAYER_SCHEDULE: [9]\n", [],
     "FILE: SOLVER.LAYER_SCHEDULE has 1 epochs, but INPUT.LAYER_NUM 1 adds 0 layers to the first"),
    ("resolutions-backwards", "SOLVER:\n  RESOLUTION_SCHEDULE: [0.5, 0.2]\n", [],
     "FILE: SOLVER.RESOLUTION_SCHEDULE is [0.5, 0.2]; the shares must increase"),
    ("steps-backwards", "SOLVER:\n  STEPS: [9, 4]\n", [],
     "FILE: SOLVER.STEPS is [9, 4]; the epochs must increase"),
    ("nothing-to-learn", "LOSS:\n  PERCEPTUAL: 0\n  MSE: 0\n", [],
     "FILE: every weight under LOSS is 0; nothing would be learned"),
    ("key-without-value", "", ["LOAD_EPOCH"],
     "command line: KEY VALUE pairs expected; 'LOAD_EPOCH' has no value"),
    ("section-as-key", "", ["MODEL", "cpu"],
     "command line: MODEL is a section; name one of its keys: DEVICE, FEATURE_DIM, ..."),
    ("unknown-option", "", ["MODEL.DEVISE", "cpu"],
     "command line: unknown key MODEL.DEVISE; keys under MODEL: ..."),
    ("word-as-option", "", ["LOAD_EPOCH", "newest"],
     "command line: LOAD_EPOCH is 'newest' (str); it needs a whole number, such as -1"),
]


@pytest.mark.parametrize(("text", "options", "message"), [row[1:] for row in CONFIGS],
                         ids=[row[0] for row in CONFIGS])
def test_broken_configurations(tmp_path: Path, text: str | bytes, options: list[str], message: str) -> None:
    file = tmp_path / "c.yml"
    _write("c.yml", text)(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(file, options)
    assert caught.type is ConfigError
    _check(str(caught.value).replace(str(file), "FILE"), message)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^.*/none.yml: no such configuration file$"):
        load_config(tmp_path / "none.yml")
