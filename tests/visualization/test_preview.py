# SPDX-License-Identifier: Apache-2.0
import numpy as np

from npcr.camera_paths import look_at, orbit
from npcr.visualization.preview import contact_sheet, draw_cameras, draw_projection

PATH = orbit(look_at((2, 0, 0.3), (0, 0, 0)), 60)


def colored(picture: np.ndarray, red: bool) -> int:
    """Pixels of the path's last (red) or first (blue) color."""
    r, g, b = picture.astype(int).transpose(2, 0, 1)
    return int((((r - b > 100) & (r - g > 100)) if red else ((b - r > 100) & (b - g > 60))).sum())


def test_cameras_are_drawn_from_blue_to_red():
    picture = draw_cameras(PATH, size=(320, 240))
    assert picture.shape == (240, 320, 3)
    assert picture.dtype == np.uint8
    assert colored(picture, red=True) > 50
    assert colored(picture, red=False) > 50


def test_points_are_drawn_in_their_colors_and_nearer_ones_in_front():
    points = np.random.default_rng(0).normal(size=(20000, 3)) * 0.2
    green = np.broadcast_to(np.array([0, 255, 0], np.uint8), points.shape)
    r, g, b = draw_cameras(PATH, points=points, colors=green, size=(320, 240)).astype(int).transpose(2, 0, 1)
    assert ((g > 240) & (r < 30) & (b < 30)).sum() > 300


def test_one_camera_far_from_the_origin_and_straight_down():
    pose = look_at((100, 100, 103), (100, 100, 100))
    assert colored(draw_cameras(pose[None], size=(160, 120)), red=False) > 20


def test_projection_marks_pixels_and_leaves_out_what_is_outside():
    photograph = np.zeros((30, 40, 4), np.uint8)
    pixels = np.array([[3.4, 5.6], [39.4, 29.4], [-0.6, 3], [40, 3], [np.nan, 1], [np.inf, 1]])
    drawn = draw_projection(photograph, pixels)
    changed = np.argwhere((drawn != drawn[0, 0]).any(2))
    assert changed.tolist() == [[6, 3], [29, 39]]


def test_the_nearest_point_is_on_top():
    pixels = np.array([[4.0, 4.0], [4.0, 4.0], [8.0, 8.0]])
    drawn = draw_projection(np.zeros((16, 16, 3), np.uint8), pixels, np.array([1.0, 2.0, 2.0]))
    assert drawn[4, 4, 0] > drawn[4, 4, 2]
    assert drawn[8, 8, 2] > drawn[8, 8, 0]


def test_a_contact_sheet_arranges_images_row_by_row():
    tiles = [np.full((20, 40, 3), 50 * i, np.uint8) for i in range(3)]
    sheet = contact_sheet(tiles, columns=2, width=40)
    assert sheet.shape == (40, 80, 3)
    assert sheet[10, 60, 0] == 50
    assert sheet[30, 10, 0] == 100
    assert sheet[30, 60, 0] == 255


def test_a_matte_is_outlined_and_a_caption_written():
    matte = np.zeros((100, 200), np.uint8)
    matte[40:80, 50:150] = 255
    drawn = draw_projection(np.full((100, 200, 3), 80, np.uint8), np.zeros((0, 2)), matte=matte, caption="7")
    green = (drawn[..., 1].astype(int) - drawn[..., 0] > 60) & (drawn[..., 1] > 120)
    assert green[39:42, 60:140].any(0).all()
    assert not green[55:65, 70:130].any()
    assert (drawn[:12, :16] < 120).all(2).any()


def test_cameras_look_different_from_another_direction():
    front, top = draw_cameras(PATH, size=(160, 120)), draw_cameras(PATH, size=(160, 120), direction=(0, 0, 1))
    assert (front != top).any()
