# SPDX-License-Identifier: Apache-2.0
"""Ways to damage a capture, each a function of its folder and a random generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

Damage = Callable[[Path, np.random.Generator], None]

_WORDS = ("nan", "inf", "-1", "0", "1e308", "1e-30", "0,5", "", "x", "1.2.3", "99999999999999999999", "None", "true",
          "../up.png", "0.png", "7", "0x1f", "1e5", "½", "\ufeff", "-0.3", "2")
_BYTES = (b"\xff", b"\0", b" ", b"\n", b"\r", b"#", b",", b".", b"-", b"9", b"<", b'"', b"\xc3\xa9", b"\xe9", b"/",
          b"\\")


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _is_text(file: Path) -> bool:
    return file.suffix in (".txt", ".json", ".xml", ".inf")


def _description(folder: Path, rng: np.random.Generator, text: bool = False) -> Path:
    """One of the files that describe the capture."""
    files = [file for file in sorted(folder.rglob("*")) if (file.suffix == ".bin" and not text) or _is_text(file)]
    return _pick(rng, files)


def _photograph(folder: Path, rng: np.random.Generator) -> Path:
    return _pick(rng, [file for file in sorted(folder.rglob("*.png")) if "mask" not in str(file.parent.name)])


def _mask(folder: Path, rng: np.random.Generator) -> Path:
    return _pick(rng, [file for file in sorted(folder.rglob("*.png")) if "mask" in str(file.parent.name)])


# Bytes, lines and words of a description


def change_byte(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng)
    data = bytearray(file.read_bytes())
    at = int(rng.integers(len(data)))
    data[at:at + 1] = _pick(rng, [*_BYTES, bytes([int(rng.integers(256))])])
    file.write_bytes(data)


def insert_bytes(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng)
    data = file.read_bytes()
    at = int(rng.integers(len(data)))
    file.write_bytes(data[:at] + _pick(rng, _BYTES) * int(rng.integers(1, 4)) + data[at:])


def delete_bytes(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng)
    data = file.read_bytes()
    at = int(rng.integers(len(data)))
    file.write_bytes(data[:at] + data[at + int(rng.integers(1, 40)):])


def cut_the_end(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng)
    data = file.read_bytes()
    file.write_bytes(data[:int(rng.integers(len(data)))])


def change_lines(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng, text=True)
    lines = file.read_bytes().split(b"\n")
    at = int(rng.integers(len(lines)))
    how = _pick(rng, ("delete", "repeat", "swap", "blank", "comment", "indent", "join"))
    if how == "delete":
        del lines[at]
    elif how == "repeat":
        lines.insert(at, lines[at])
    elif how == "swap":
        lines[at], lines[at - 1] = lines[at - 1], lines[at]
    elif how == "blank":
        lines.insert(at, b"")
    elif how == "comment":
        lines.insert(at, b"# h\xc3\xa9")
    elif how == "indent":
        lines[at] = b"  " + lines[at] + b" \t"
    else:
        lines[at:at + 2] = [b" ".join(lines[at:at + 2])]
    file.write_bytes(b"\n".join(lines))


def change_word(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng, text=True)
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    at = int(rng.integers(len(lines)))
    words = lines[at].split(" ")
    place = int(rng.integers(len(words)))
    how = _pick(rng, ("replace", "delete", "insert", "comma", "repeat"))
    if how == "replace":
        words[place] = _pick(rng, _WORDS)
    elif how == "delete":
        del words[place]
    elif how == "insert":
        words.insert(place, _pick(rng, _WORDS))
    elif how == "comma":
        words[place] = words[place].replace(".", ",")
    else:
        words.insert(place, words[place])
    lines[at] = " ".join(words)
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")


def change_encoding(folder: Path, rng: np.random.Generator) -> None:
    file = _description(folder, rng, text=True)
    text = file.read_bytes()
    how = _pick(rng, ("bom", "crlf", "cr", "utf-16", "comma", "tabs"))
    if how == "bom":
        text = b"\xef\xbb\xbf" + text
    elif how in ("crlf", "cr"):
        text = text.replace(b"\n", b"\r\n" if how == "crlf" else b"\r")
    elif how == "utf-16":
        text = text.decode("utf-8", errors="replace").encode("utf-16")
    elif how == "comma" and file.suffix in (".txt", ".inf"):
        text = text.replace(b".", b",")
    elif how == "tabs":
        text = text.replace(b" ", b"\t")
    file.write_bytes(text)


# Photographs, masks and clouds


def lose_a_file(folder: Path, rng: np.random.Generator) -> None:
    _pick(rng, [file for file in sorted(folder.rglob("*")) if file.is_file()]).unlink()


def rename_a_picture(folder: Path, rng: np.random.Generator) -> None:
    file = _pick(rng, (_photograph, _mask))(folder, rng)
    name = _pick(rng, (file.name.upper(), file.stem + ".PNG", file.stem + ".jpg", file.stem, file.name + ".png",
                       "IMG_" + file.name, file.stem + " (1).png", file.stem + "_mask.png", "0.png"))
    file.rename(file.with_name(name))


def rename_all_masks(folder: Path, rng: np.random.Generator) -> None:
    pattern = _pick(rng, ("{}_mask.png", "mask_{}.png", "{}.jpg", "{}_alpha.png", "{}.mask.png", "m/{}.png", "{}.PNG"))
    masks = [file for file in sorted(folder.rglob("*.png")) if "mask" in file.parent.name]
    for file in masks:
        target = file.with_name(pattern.format(file.name.split(".")[0]))
        target.parent.mkdir(exist_ok=True)
        file.rename(target)


def spoil_a_picture(folder: Path, rng: np.random.Generator) -> None:
    file = _pick(rng, (_photograph, _mask))(folder, rng)
    data = file.read_bytes()
    how = _pick(rng, ("empty", "text", "half", "smaller", "larger", "another shape", "mirror"))
    if how in ("empty", "text", "half"):
        file.write_bytes({"empty": b"", "text": b"not a picture", "half": data[:len(data) // 2]}[how])
        return
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    height, width = pixels.shape[:2]
    size = {"smaller": (width // 2, height // 2), "larger": (width * 2, height * 2), "another shape": (height, width),
            "mirror": (width + 1, height)}[how]
    cv2.imwrite(str(file), cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST))


def encode_a_picture_otherwise(folder: Path, rng: np.random.Generator) -> None:
    """Write a photograph or a mask with the same content in another way."""
    file = _pick(rng, (_photograph, _mask))(folder, rng)
    image = Image.open(file)
    how = _pick(rng, ("palette", "alpha", "rgb", "exif", "interlaced"))
    if how == "palette":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
        image.save(file)
    elif how == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, exif=exif)
    elif how == "interlaced":
        image.save(file, interlace=1)
    else:
        image.convert("RGBA" if how == "alpha" else "RGB").save(file)


def scale_a_mask(folder: Path, rng: np.random.Generator) -> None:
    """Write 1, 2 or 100 for the object in place of 255."""
    file = _mask(folder, rng)
    pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(file), np.where(pixels > 0, _pick(rng, (1, 2, 100)), 0).astype(np.uint8))


def change_the_cloud(folder: Path, rng: np.random.Generator) -> None:
    cloud = next(folder.rglob("*.ply"))
    data = cloud.read_bytes()
    end = data.index(b"end_header\n")
    header, body = data[:end], data[end:]
    change: tuple[bytes, bytes] = _pick(rng, (
        (b"property float x\n", b""), (b"red", b"Red"), (b"red", b"scalar_R"), (b"red", b"quality"),
        (b"element vertex 8", b"element vertex 7"), (b"element vertex 8", b"element vertex 9"),
        (b"element vertex", b"comment h\xe9\nelement vertex"), (b"element", b"comment h\xc3\xa9\nelement"),
        (b"little", b"big"), (b"uchar red", b"char red"), (b"vertex", b"point"), (b"ply\n", b"ply\r\n")))
    body = body[:len(body) - int(rng.integers(20))] if rng.integers(4) == 0 else body
    cloud.write_bytes(header.replace(*change, 1) + body)


# Values of JSON


_JUNK = (None, True, -1, 0, 1, 1e308, 10**400, "50,0", "50.0", "", "x", [], {}, [1, 2], [[1, 0, 0, 0]] * 4, "../..")


def _json_values(folder: Path) -> tuple[Path, dict[str, Any]]:
    file = folder / "transforms.json"
    return file, json.loads(file.read_bytes().decode("utf-8"))


def change_json_value(folder: Path, rng: np.random.Generator) -> None:
    file, values = _json_values(folder)
    place: Any = values
    key = _pick(rng, list(values))
    while isinstance(place[key], (dict, list)) and place[key] and rng.integers(4):
        place = place[key]
        key = _pick(rng, list(place) if isinstance(place, dict) else range(len(place)))
    how = _pick(rng, ("junk", "delete", "rename", "repeat"))
    if how == "junk":
        place[key] = _pick(rng, _JUNK)
    elif how == "delete":
        del place[key]
    elif how == "rename" and isinstance(place, dict):
        place[_pick(rng, (key.upper(), key + "s", "_" + key))] = place.pop(key)
    elif how == "repeat" and isinstance(place, list):
        place.append(place[key])
    file.write_text(json.dumps(values))


def add_json_key(folder: Path, rng: np.random.Generator) -> None:
    file, values = _json_values(folder)
    place = _pick(rng, (values, _pick(rng, values["frames"])))
    key, choices = _pick(rng, (
        ("camera_angle_x", (0.7, 2.0)), ("k1", (0.0,)), ("k4", (0.0, 0.1)), ("k5", (0.1,)), ("fl_x", (40.0, 41.0)),
        ("w", (32, 64)), ("applied_transform", (np.eye(4)[:3].tolist(),)), ("applied_scale", (1.0, 2.0)),
        ("aabb_scale", (16,)), ("sharpness", (12.5,)), ("colmap_im_id", (3,)), ("camera_model", ("PINHOLE", "X")),
        ("is_fisheye", (False, 0)), ("depth_file_path", ("d.png",)), ("val_filenames", ([], ["nothing.png"])),
        ("ply_file_path", ("cloud.ply", "gone.ply")), ("rolling_shutter", ([0, 0, 0], [1, 0, 0])), ("cx", (16.0,))))
    place[key] = _pick(rng, choices)
    file.write_text(json.dumps(values))


def respell_json_names(folder: Path, rng: np.random.Generator) -> None:
    file, values = _json_values(folder)
    spell = _pick(rng, (lambda name: "./" + name, lambda name: name.replace("/", "\\"),
                        lambda name: name.removesuffix(".png"), lambda name: name.rpartition("/")[2],
                        lambda name: name.upper(), lambda name: "images/../" + name))
    if rng.integers(2):
        values["test_filenames"] = [spell(name) for name in values["test_filenames"]]
    else:
        for entry in values["frames"]:
            entry["file_path"] = spell(entry["file_path"])
    file.write_text(json.dumps(values))


def reshape_json_matrix(folder: Path, rng: np.random.Generator) -> None:
    file, values = _json_values(folder)
    how = _pick(rng, ("transpose", "flat", "three rows", "negate", "scale", "mirror", "last row"))
    for entry in values["frames"] if rng.integers(2) else [_pick(rng, values["frames"])]:
        matrix = np.array(entry["transform_matrix"])
        if how == "negate":
            matrix[:3, :3] *= -1
        elif how == "scale":
            matrix[:3, :3] *= 2
        elif how == "mirror":
            matrix[:3, 0] *= -1
        elif how == "last row":
            matrix[3] = [0, 0, 0, 2]
        entry["transform_matrix"] = {"transpose": matrix.T, "flat": matrix.ravel(),
                                     "three rows": matrix[:3]}.get(how, matrix).tolist()
    file.write_text(json.dumps(values))


# Elements of XML


def change_xml(folder: Path, rng: np.random.Generator) -> None:
    file = folder / "cameras.xml"
    text = file.read_bytes().decode("utf-8")
    old, new = _pick(rng, (
        ('label="1.png"', 'label="1"'), ('label="1.png"', 'label="2.png"'), ('label="1.png"', r'label="C:\p\1.png"'),
        ('label="1.png"', 'label="/home/x/1.png"'), ('label="1.png"', 'label="1.PNG"'), ('label="1.png"', ""),
        ('enabled="true">\n<t', 'enabled="false">\n<t'), ('enabled="true">\n<t', 'enabled="0">\n<t'),
        ('sensor_id="0"', 'sensor_id="1"'), ('sensor_id="0"', 'sensor_id="0" master_id="0"'), ('sensor_id="0"', ""),
        ('type="frame"', 'type="fisheye"'), ('type="frame"', 'type="spherical"'), ('type="frame"', 'type="rpc"'),
        ('type="frame"', 'type="cylindrical"'), ('class="adjusted"', 'class="initial"'), ("<k1>0</k1>", "<k1>-9</k1>"),
        ("<k1>0</k1>", "<k5>0.1</k5>"), ("<cx>0</cx>", "<cx>0</cx>\n<skew>3</skew>"), ("<f>40.0</f>", ""),
        ("<f>40.0</f>", "<fx>30</fx>\n<fy>30</fy>"), ("<scale>1</scale>", "<scale>0</scale>"),
        ("<scale>1</scale>", "<scale>-1</scale>"), ("<scale>1</scale>", "<scale>2</scale>"),
        ("<scale>1</scale>", "<rotation>0 1 0 1 0 0 0 0 1</rotation>"), ("<scale>1</scale>", "<rotation>2</rotation>"),
        ("<cameras", "<!-- a comment --><cameras"), ("</chunk>", '</chunk>\n<chunk label="2"/>'),
        ("<document", "<!DOCTYPE a>\n<document"), ("UTF-8", "latin-1"), ("UTF-8", "utf-16"),
        ('<camera id="0"', '<group id="0" label="g"><camera id="9"'), ('width="32"', 'width="48"'),
        ("<sensors", '<components><component id="0"/></components>\n<sensors'), ("<sensor ", "<sensors><sensor "),
        ('version="2.0.0"', 'version="1.2.0"'), ("<cameras", "<region><center>0 0 0</center></region>\n<cameras")))
    if new.startswith("<group"):
        text = text.replace("</cameras>", "</group></cameras>")
    file.write_bytes(text.replace(old, new, int(rng.integers(1, 3))).encode("utf-8"))


COMMON: tuple[Damage, ...] = (
    change_byte, insert_bytes, delete_bytes, cut_the_end, lose_a_file, rename_a_picture, rename_all_masks,
    spoil_a_picture, encode_a_picture_otherwise, scale_a_mask)
TEXT: tuple[Damage, ...] = (change_lines, change_lines, change_word, change_word, change_word, change_encoding)
JSON: tuple[Damage, ...] = (change_json_value, change_json_value, add_json_key, add_json_key, respell_json_names,
                            reshape_json_matrix, change_the_cloud)
