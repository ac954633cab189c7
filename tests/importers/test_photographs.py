# SPDX-License-Identifier: Apache-2.0
"""Photographs and mattes of captures that are not plain RGB and gray: what comes out, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from npcr.errors import SceneError
from npcr.importers.matting import Matting
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.camera_files import read_intrinsics
from npcr.io.images import read_image, read_matte
from tests.captures import SIZE, write_transforms

ORIENTATION = 0x0112


def matte(values: tuple[int, ...] = (255,)) -> np.ndarray:
    """(36, 48): a stripe of each value about the middle, but so that no turn or flip leaves it as it is."""
    result = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for place, value in enumerate(values):
        result[9:25, 19 + 6 * place:26 + 6 * place] = value
    return result


def capture(folder: Path, *, change: Callable[[int, Image.Image], tuple[str, dict[str, Any]]] | None = None,
            masks: Callable[[int], Image.Image | np.ndarray | None] | None = None, **values: Any) -> Path:
    """A transforms.json whose photographs are saved anew by `change` (name and options), with masks."""
    write_transforms(folder, **values)
    file = folder / "transforms.json"
    settings = json.loads(file.read_text())
    for i, frame in enumerate(settings["frames"]):
        if change is not None:
            with Image.open(folder / "images" / f"{i}.png") as image:
                image.load()
            name, options = change(i, image)
            options.pop("image", image).save(folder / "images" / name, **options)
            frame["file_path"] = f"images/{name}"
        mask = masks(i) if masks is not None else None
        if mask is not None:
            (folder / "masks").mkdir(exist_ok=True)
            (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(folder / "masks" / f"{i}.png")
            frame["mask_path"] = f"masks/{i}.png"
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    return folder


def written(scene: Path, number: int = 1) -> np.ndarray:
    return read_image(next(path for path in (scene / "img" / "0").glob(f"img_{number:04d}.*")))


def written_matte(scene: Path, number: int = 1) -> np.ndarray:
    return read_matte(scene / "img" / "0" / f"img_{number:04d}_alpha.png")


def imported(folder: Path, scene: Path, **options: Any) -> None:
    import_capture(read_transforms(folder), scene, **options)


def oriented(number: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return {"exif": exif}


def test_plain_photographs_and_mattes_give_no_warning(tmp_path, caplog):
    imported(capture(tmp_path / "c", masks=lambda i: matte()), tmp_path / "scene")
    assert not caplog.records


# --- which way up

@pytest.mark.parametrize("number", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_calibration_of_turned_photographs_has_them_turned(tmp_path, caplog, suffix, number):
    """The camera is of 36x48, the pixels are stored as 48x36."""
    folder = capture(tmp_path / "c", change=lambda i, image: (f"{i}{suffix}", oriented(number)), w=36, h=48, cx=18,
                     cy=24)
    imported(folder, tmp_path / "scene")
    with Image.open(folder / "images" / f"0{suffix}") as image:
        expected = np.array(ImageOps.exif_transpose(image))
    found = written(tmp_path / "scene")
    assert found.shape == (48, 36, 3)
    assert np.abs(found.astype(int) - expected).mean() < (1.5 if suffix == ".jpg" else 1e-9)
    assert read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0, :2, 2].tolist() == [17.5, 23.5]
    assert "4 of 4 photographs are turned as their EXIF orientation says, first" in caplog.text


def test_the_principal_point_tells_where_no_size_is_given(tmp_path, caplog):
    change = lambda i, image: (f"{i}.png", oriented(6))  # noqa: E731
    imported(capture(tmp_path / "c", change=change, w=None, h=None, cx=17, cy=25), tmp_path / "scene")
    assert written(tmp_path / "scene").shape == (48, 36, 3)
    assert "4 of 4 photographs are turned" in caplog.text


def test_a_calibration_of_stored_pixels_keeps_them(tmp_path, caplog):
    change = lambda i, image: (f"{i}.jpg", oriented(6) | {"quality": 100})  # noqa: E731
    folder = capture(tmp_path / "c", change=change)
    imported(folder, tmp_path / "scene")
    np.testing.assert_array_equal(written(tmp_path / "scene"), read_image(folder / "images/0.jpg"))
    with Image.open(tmp_path / "scene/img/0/img_0001.jpg") as image:
        assert ORIENTATION not in image.getexif()
    assert not caplog.records


@pytest.mark.parametrize(("number", "more"), [(3, {}), (6, {"w": None, "h": None, "cx": None, "cy": None})])
def test_an_orientation_that_nothing_confirms_is_said(tmp_path, caplog, number, more):
    change = lambda i, image: (f"{i}.png", oriented(number) if i else {})  # noqa: E731
    imported(capture(tmp_path / "c", change=change, **more), tmp_path / "scene")
    assert "3 of 4 photographs have an EXIF orientation that is not applied, first" in caplog.text
    assert "1.png" in caplog.text


def test_sideways_pixels_without_an_orientation_are_refused(tmp_path):
    with pytest.raises(SceneError, match=r"0.png is 48x36, but its camera was calibrated for 36x48; turn its"):
        imported(capture(tmp_path / "c", w=36, h=48), tmp_path / "scene")


@pytest.mark.parametrize("number", [6, 8])
@pytest.mark.parametrize("turned_camera", [False, True])
@pytest.mark.parametrize("turned_mask", [False, True])
def test_masks_of_turned_photographs_lie_over_them(tmp_path, number, turned_camera, turned_mask):
    turn = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[number]
    mask = Image.fromarray(matte())
    shown = mask.transpose(turn)
    folder = capture(tmp_path / "c", change=lambda i, image: (f"{i}.png", oriented(number)),
                     masks=lambda i: shown if turned_mask else mask,
                     **({"w": 36, "h": 48, "cx": 18, "cy": 24} if turned_camera else {}))
    imported(folder, tmp_path / "scene")
    np.testing.assert_array_equal(written_matte(tmp_path / "scene"), np.array(shown if turned_camera else mask))


# --- colors and formats

@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".webp", ".TIFF"])
def test_other_formats_become_png(tmp_path, caplog, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    folder = capture(tmp_path / "c", change=lambda i, image: (f"{i}{suffix}", dict(options)))
    imported(folder, tmp_path / "scene")
    np.testing.assert_array_equal(written(tmp_path / "scene"), read_image(folder / "images/0.png"))
    assert (tmp_path / "scene/img/0/img_0001.png").is_file()
    assert not caplog.records


def test_a_png_called_jpg_stays_lossless(tmp_path):
    folder = capture(tmp_path / "c", change=lambda i, image: (f"{i}.jpg", {"format": "PNG"}))
    imported(folder, tmp_path / "scene", downscale=1)
    assert (tmp_path / "scene/img/0/img_0001.png").read_bytes() == (folder / "images/0.jpg").read_bytes()


@pytest.mark.parametrize(("change", "message"), [
    (lambda i, image: (f"{i}.webp", {"save_all": True, "append_images": [image.rotate(90)]}),
     "4 of 4 photographs have several frames or pages, first"),
    (lambda i, image: (f"{i}.jpg", {"image": image.convert("CMYK")}), "4 of 4 photographs are CMYK, first"),
    (lambda i, image: (f"{i}.png", {"image": Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)}
                       if i == 2 else {}), "1 of 4 photographs have more than 8 bits a channel, first"),
], ids=["animation", "CMYK", "16 bits"])
def test_what_is_not_kept_is_said_once(tmp_path, caplog, change, message):
    imported(capture(tmp_path / "c", change=change), tmp_path / "scene")
    assert [message in record.getMessage() for record in caplog.records] == [True]
    with Image.open(next((tmp_path / "scene/img/0").glob("img_0001.*"))) as image:
        assert image.mode == "RGB"


def test_other_sizes_are_named(tmp_path, caplog):
    change = lambda i, image: (f"{i}.png", {"image": image.resize((24, 18)) if i == 2 else image})  # noqa: E731
    imported(capture(tmp_path / "c", change=change), tmp_path / "scene")
    assert "1 of 4 are brought to 48x36, first" in caplog.text
    assert "2.png" in caplog.text


def test_a_shape_that_is_slightly_another_is_said(tmp_path, caplog):
    change = lambda i, image: (f"{i}.png", {"image": image.resize((480, 360))})  # noqa: E731
    imported(capture(tmp_path / "c", change=change, w=480, h=366, fl_x=500, cx=240, cy=183), tmp_path / "scene")
    assert "4 of 4 photographs have not quite the shape that their cameras were calibrated for" in caplog.text


# --- mattes

@pytest.mark.parametrize("values", [(1,), (1, 2), (1, 2, 3), (38, 75), (128,), (1, 2, 255)])
def test_numbers_of_objects_are_read_as_the_object_and_said(tmp_path, caplog, values):
    folder = capture(tmp_path / "c", masks=lambda i: matte(values) if i else matte(()))
    imported(folder, tmp_path / "scene")
    np.testing.assert_array_equal(written_matte(tmp_path / "scene", 2), np.where(matte(values), 255, 0))
    assert written_matte(tmp_path / "scene", 1).max() == 0
    assert "3 of 4 masks hold only a few values, hardly any of them 255, first" in caplog.text
    assert "every value but 0 counts as the object" in caplog.text


def test_soft_mattes_with_hardly_any_object_stay_as_they_are(tmp_path, caplog):
    faint = matte(())
    faint[3, 3:6] = 1, 3, 2
    imported(capture(tmp_path / "c", masks=lambda i: matte() if i else faint), tmp_path / "scene")
    np.testing.assert_array_equal(written_matte(tmp_path / "scene"), faint)
    assert "masks" not in caplog.text


def test_masks_of_two_scales_are_said(tmp_path, caplog):
    imported(capture(tmp_path / "c", masks=lambda i: matte() if i else matte((1,))), tmp_path / "scene")
    assert "1 of 4 masks hold only a few values, hardly any of them 255, and the others do not" in caplog.text


def test_palettes_are_read_by_index_and_several_objects_said(tmp_path, caplog):
    def mask(_: int) -> Image.Image:
        image = Image.fromarray(matte((1, 2))).convert("P")
        image.putdata(matte((1, 2)).ravel().tolist())
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        return image
    imported(capture(tmp_path / "c", masks=mask), tmp_path / "scene")
    np.testing.assert_array_equal(written_matte(tmp_path / "scene"), np.where(matte((1, 2)), 255, 0))
    assert "4 of 4 masks are no plain mattes, first" in caplog.text
    assert "label image of 2 colors" in caplog.text


def test_half_a_resolution_is_brought_to_the_photographs(tmp_path, caplog):
    small = matte()[::2, ::2]
    imported(capture(tmp_path / "c", masks=lambda i: small), tmp_path / "scene")
    assert np.abs(written_matte(tmp_path / "scene").astype(int) - matte()).mean() < 15
    assert "4 of 4 masks are of another size than their photographs, first" in caplog.text


@pytest.mark.parametrize("size", [(47, 36), (36, 48), (40, 36)])
def test_masks_that_do_not_fit_are_refused_with_both_names(tmp_path, size):
    folder = capture(tmp_path / "c", masks=lambda i: Image.fromarray(matte()).resize(size))
    with pytest.raises(SceneError, match=rf"masks/0.png: is {size[0]}x{size[1]}; its photograph .*0.png is 48x36"):
        imported(folder, tmp_path / "scene")


def with_alpha(image: Image.Image, alpha: np.ndarray) -> dict[str, Any]:
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    return {"image": image}


def test_an_opaque_alpha_channel_is_no_matte(tmp_path, caplog):
    folder = capture(tmp_path / "c", change=lambda i, image: (f"{i}.png", with_alpha(image, matte() * 0 + 255)))
    with pytest.raises(SceneError, match="4 of 4 photographs have neither"):
        imported(folder, tmp_path / "none", mask=True)
    caplog.clear()
    imported(folder, tmp_path / "scene")
    assert "4 of 4 photographs have an alpha channel of 255 throughout, first" in caplog.text
    assert written(tmp_path / "scene").shape == (36, 48, 3)


def test_alpha_of_zeros_and_ones(tmp_path, caplog):
    imported(capture(tmp_path / "ones", change=lambda i, image: (f"{i}.png", with_alpha(image, matte((1,))))),
             tmp_path / "scene")
    np.testing.assert_array_equal(written(tmp_path / "scene")[..., 3], matte())
    assert "alpha channel of a few values" in caplog.text
    folder = capture(tmp_path / "zeros", change=lambda i, image: (f"{i}.png", with_alpha(image, matte(()))))
    with pytest.raises(SceneError, match="the alpha channels of all 4 photographs that have no other matte are 0"):
        imported(folder, tmp_path / "none")


def test_masks_win_over_alpha_and_that_is_said(tmp_path, caplog):
    change = lambda i, image: (f"{i}.png", with_alpha(image, matte((255, 0, 90))))  # noqa: E731
    imported(capture(tmp_path / "c", change=change, masks=lambda i: matte()), tmp_path / "scene")
    np.testing.assert_array_equal(written_matte(tmp_path / "scene"), matte())
    assert "4 of 4 photographs have an alpha channel beside their mask, first" in caplog.text


def test_an_opaque_alpha_beside_masks_is_not_worth_a_word_of_winning(tmp_path, caplog):
    change = lambda i, image: (f"{i}.png", with_alpha(image, matte() * 0 + 255))  # noqa: E731
    imported(capture(tmp_path / "c", change=change, masks=lambda i: matte()), tmp_path / "scene")
    assert not caplog.records


def test_mattes_of_some_photographs_are_left_out_with_a_word(tmp_path, caplog):
    folder = capture(tmp_path / "c", masks=lambda i: matte() if i != 2 else None)
    imported(folder, tmp_path / "scene")
    assert "1 of 4 photographs have no matte, first" in caplog.text
    assert "2.png; mattes are left out altogether" in caplog.text


@pytest.mark.parametrize("value", [0, 255])
def test_masks_that_mask_nothing(tmp_path, caplog, value):
    folder = capture(tmp_path / "c", masks=lambda i: matte() * 0 + value)
    if value:
        imported(folder, tmp_path / "scene")
        assert "4 of 4 mattes are 255 throughout" in caplog.text
    else:
        with pytest.raises(SceneError, match="all 4 masks are 0 throughout, first"):
            imported(folder, tmp_path / "scene")


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("alpha", [True, False])
def test_one_matte_without_an_object_or_without_anything_else_is_said(tmp_path, caplog, value, alpha):
    made = [matte() if i != 2 else matte() * 0 + value for i in range(4)]
    folder = (capture(tmp_path / "c", change=lambda i, image: (f"{i}.png", with_alpha(image, made[i]))) if alpha
              else capture(tmp_path / "c", masks=lambda i: made[i]))
    imported(folder, tmp_path / "scene")
    place = "images" if alpha else "masks"
    assert f"1 of 4 mattes are {value} throughout, first {folder / place / '2.png'}; " in caplog.text


def test_keying_says_that_it_replaces_masks(tmp_path, caplog):
    imported(capture(tmp_path / "c", masks=lambda i: matte()), tmp_path / "scene", matting=Matting((0, 0, 0)))
    assert "4 of 4 photographs have a mask, first" in caplog.text


def test_a_trimap_in_colors_is_refused(tmp_path):
    folder = capture(tmp_path / "c")
    (tmp_path / "trimaps").mkdir()
    for i in range(4):
        Image.fromarray(np.dstack([matte((128, 255)), matte((0, 255)), matte(())])).save(tmp_path / f"trimaps/{i}.png")
    with pytest.raises(SceneError, match=r"trimaps/.\.png: is in colors \(RGB\); a trimap is gray"):
        imported(folder, tmp_path / "scene", matting=Matting(trimaps=tmp_path / "trimaps"))
