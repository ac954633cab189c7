# SPDX-License-Identifier: Apache-2.0
"""One browser: its controls, and what it is shown. All that can be tested without a browser is elsewhere."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npcr.camera_spline import FIELD_OF_VIEW, PathFrame
from npcr.errors import NpcrError
from npcr.rendering.path_inputs import frames_of_times
from npcr.viewer.landmarks import Landmarks
from npcr.viewer.pictures import Shown, View, png_bytes
from npcr.viewer.poses import fit_window, look_at_distance, pose_from_browser

if TYPE_CHECKING:
    from npcr.viewer.app import ViewerApp


class Browser:
    """The controls of one browser, made when it connects.

    Args:
        app: the server.
        client: viser's handle of the browser.
    """

    def __init__(self, app: ViewerApp, client: Any) -> None:
        self._app, self._client = app, client
        self._editor = app.editor()
        self._playing = threading.Event()
        self._gone = False
        self._times = {True: 0.0, False: 0.0}  # milliseconds of the last quick and full frame
        self._landmarks = Landmarks(client.scene, app.settings.center)
        self._add_picture_controls()
        if app.views is not None:
            self._add_photographs()
        self._add_path_controls()
        client.camera.on_update(lambda _: self.ask())

    def close(self) -> None:
        """Forget the browser, which has gone."""
        self._gone = True
        self._playing.clear()

    def ask(self) -> None:
        """Ask for a frame of the browser's camera, unless a path is playing."""
        if not self._playing.is_set() and not self._gone:
            self._app.scheduler.submit(self._client.client_id, self.view())

    def view(self) -> View:
        """What the browser's camera and controls ask for."""
        camera = self._client.camera
        try:
            pose, fov = pose_from_browser(camera.wxyz, camera.position), math.degrees(camera.fov)
        except ValueError:  # before the browser has told
            pose, fov = self._app.settings.pose, self._app.settings.fov
        return self._make_view(pose, fov, int(self._frame.value) - 1 if self._frame else 0)

    def draw(self, shown: Shown, quick: bool) -> None:
        """Show a frame."""
        if self._gone:
            return
        self._times[quick] = 1000 * shown.seconds
        height, width = shown.picture.shape[:2]
        self._client.scene.set_background_image(shown.picture, format="jpeg" if quick else "png",
                                                jpeg_quality=80 if quick else None)
        self._status.content = (f"{width}×{height}{', moving' if quick else ''} · full {self._times[False]:.0f} ms · "
                                f"moving {self._times[True]:.0f} ms")

    def say(self, message: str) -> None:
        """Show a message."""
        if not self._gone:
            self._client.add_notification("NPCR", message, color="red", auto_close_seconds=10)

    def note(self, title: str, message: str) -> None:
        """Show what went well for a while."""
        if not self._gone:
            self._client.add_notification(title, message, auto_close_seconds=10)

    def _make_view(self, pose: NDArray[np.float64], fov: float, frame: int) -> View:
        camera, kind = self._client.camera, self._background.value
        size = fit_window((camera.image_width, camera.image_height), self._app.settings.largest)
        return View(pose, float(np.clip(fov, *FIELD_OF_VIEW)), size, self._mode.value,
                    float(self._gray.value) if kind == "gray" else kind, frame)

    def _add_picture_controls(self) -> None:
        gui, app = self._client.gui, self._app
        self._status = gui.add_markdown("waiting for the first frame")
        self._mode = gui.add_dropdown("Show", app.engine.modes)
        backgrounds = ["gray", "checker", *(["picture"] if app.engine.backdrop is not None else [])]
        self._background = gui.add_dropdown("Background", backgrounds)
        self._gray = gui.add_slider("Gray", 0, 255, 1, round(app.settings.gray))
        self._fov = gui.add_slider("Field of view", FIELD_OF_VIEW[0], 120.0, 0.5, round(2 * app.settings.fov) / 2)
        frames = app.engine.renderer.frames
        self._frame = gui.add_slider("Frame", 1, frames, 1, 1) if frames > 1 else None
        for control in filter(None, (self._mode, self._background, self._gray, self._frame)):
            control.on_update(lambda _: self.ask())
        self._fov.on_update(lambda _: self._set_fov())
        self._cloud = gui.add_checkbox("Show cloud", False, hint="the points of this frame, hidden by nothing")
        self._cloud.on_update(lambda _: self._guarded(self._draw_cloud))
        if self._frame is not None:
            self._frame.on_update(lambda _: self._guarded(self._draw_cloud))
        self._button("Save still (PNG with alpha)", self._save_still)

    def _add_photographs(self) -> None:
        gui, views = self._client.gui, self._app.views
        assert views is not None
        with gui.add_folder("Photographs"):
            cameras = gui.add_checkbox("Show cameras", False, hint="a click on one jumps there and chooses it; "
                                       "orange: of training, blue: held out")
            cameras.on_update(lambda _: self._draw_cameras(bool(cameras.value)))
            self._camera = gui.add_slider("Camera", 1, len(views), 1, 1)
            self._button("Jump to the camera", self._jump)
            self._button("Compare: photo | ours | difference", self._compare)
            self._compared = gui.add_image(np.zeros((8, 24, 3), np.uint8), visible=False)

    def _add_path_controls(self) -> None:
        gui = self._client.gui
        with gui.add_folder("Camera path"):
            self._summary = gui.add_markdown("")
            self._seconds = gui.add_number("Seconds to it", 2.0, min=0.05, max=600.0, step=0.05)
            self._button("Add keyframe here", lambda: self._put(None))
            self._place = gui.add_number("Keyframe", 1, min=1, max=1000, step=1)
            self._button("Go to keyframe", self._go_to)
            self._button("Replace keyframe", lambda: self._put(self._chosen()))
            self._button("Delete keyframe", lambda: self._editor.keyframes.pop(self._chosen()))
            self._loop = gui.add_checkbox("Loop", False)
            self._loop.on_update(lambda _: self._set_loop())
            self._button("Play or stop", self._play)
            self._name = gui.add_text("Name", "path")
            self._button("Save path", self._save)
            upload = gui.add_upload_button("Load path (.json)", mime_type="application/json")
            upload.on_upload(lambda _: self._guarded(lambda: self._load(upload.value.name, upload.value.content)))
            self._button("Render this path", self._film)
            self._button("Cancel rendering", self._cancel)
            self._progress = gui.add_progress_bar(0.0, visible=False)
        self._summarize()

    def _button(self, label: str, action: Callable[[], object]) -> None:
        self._client.gui.add_button(label).on_click(lambda _: self._guarded(action))

    def _guarded(self, action: Callable[[], object]) -> None:
        """Do what a button says; a person's mistake is said in the browser."""
        try:
            action()
        except NpcrError as error:
            self.say(str(error))
        except OSError as error:
            self.say(f"{error.filename}: {error.strerror}")
        self._summarize()

    def _summarize(self) -> None:
        editor = self._editor
        self._summary.content = (f"{_counted(len(editor.keyframes), 'keyframe')} · {editor.seconds:.1f} s · "
                                 f"{editor.size[0]}×{editor.size[1]}, {editor.fps:g} fps")

    def _set_fov(self) -> None:
        self._client.camera.fov = math.radians(self._fov.value)
        self.ask()

    def _set_loop(self) -> None:
        self._editor.loop = bool(self._loop.value)
        self._summarize()

    def _move_to(self, pose: NDArray[np.float64], fov: float) -> None:
        self._playing.clear()
        camera = self._client.camera
        with self._client.atomic():
            camera.fov = math.radians(fov)
            camera.up_direction = -pose[:3, 1]
            camera.position = pose[:3, 3]
            camera.look_at = pose[:3, 3] + look_at_distance(pose, self._app.settings.center) * pose[:3, 2]
        self._fov.value = float(np.clip(fov, FIELD_OF_VIEW[0], 120.0))

    def _draw_cloud(self) -> None:
        if not self._cloud.value:
            self._landmarks.hide_cloud()
            return
        points = self._app.engine.points(int(self._frame.value) - 1 if self._frame else 0)
        drawn = self._landmarks.draw_cloud(points)
        if drawn < len(points):
            self.note("Cloud", f"{drawn:,} of {len(points):,} points are drawn")

    def _draw_cameras(self, shown: bool) -> None:
        views = self._app.views
        assert views is not None
        if shown:
            self._landmarks.draw_cameras(views, lambda camera: self._guarded(lambda: self._go_to_camera(camera)))
        else:
            self._landmarks.hide_cameras()

    def _go_to_camera(self, camera: int) -> None:
        """Jump to a camera and choose it; a comparison that is open follows."""
        self._camera.value = camera + 1
        self._jump()
        if self._compared.visible:
            self._compare()

    def _jump(self) -> None:
        views, camera = self._app.views, int(self._camera.value) - 1
        assert views is not None
        self._move_to(views.poses[camera], views.fovs[camera])

    def _compare(self) -> None:
        views = self._app.views
        assert views is not None
        self._compared.image = views.compared(self._app.engine, int(self._camera.value) - 1, self.view().frame,
                                              float(self._gray.value))
        self._compared.visible = True

    def _chosen(self) -> int:
        place, count = int(self._place.value), len(self._editor.keyframes)
        if not 1 <= place <= count:
            raise NpcrError(f"there is no keyframe {place}; there are {count}")
        return place - 1

    def _put(self, place: int | None) -> None:
        view, frames = self.view(), self._app.engine.renderer.frames
        moment = view.frame / (frames - 1) if frames > 1 else 0.0
        self._editor.put(self._editor.keyframe(view.cam_to_world, view.fov, float(self._seconds.value), moment), place)

    def _go_to(self) -> None:
        keyframe = self._editor.keyframes[self._chosen()]
        self._move_to(keyframe.cam_to_world, keyframe.fov)

    def _play(self) -> None:
        if self._playing.is_set():
            self._playing.clear()
            return
        self._editor.at(0)  # says that there is no keyframe
        if not self._editor.seconds:
            raise NpcrError("a path of one keyframe stands still; go to another view, and press Add keyframe here")
        self._playing.set()
        start, end = time.monotonic(), self._editor.seconds
        try:
            while self._playing.is_set() and (seconds := time.monotonic() - start) <= end:
                self._show(self._editor.at(seconds))
                time.sleep(0.04)
        finally:  # its keyframes may have been deleted
            self._playing.clear()
            self.ask()

    def _show(self, frame: PathFrame) -> None:
        moment = frames_of_times([frame.time], self._app.engine.renderer.frames)[0]
        view = self._make_view(frame.cam_to_world, frame.fov, moment)
        self._app.scheduler.submit(self._client.client_id, view)

    def _save(self) -> None:
        files = self._editor.save(self._app.settings.output, self._name.value)
        self.note("Saved", ", ".join(map(str, files)))
        self._client.send_file_download(f"{self._name.value}.json", files[0].read_bytes())

    def _load(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "uploaded.json"
            file.write_bytes(content)
            try:
                self._editor.load(file)
            except NpcrError as error:
                raise NpcrError(str(error).replace(str(file), name)) from None
        self._loop.value = self._editor.loop

    def _save_still(self) -> None:
        self._client.send_file_download("still.png", png_bytes(self._app.engine.still(self.view())))

    def _film(self) -> None:
        folder = self._editor.save(self._app.settings.output, self._name.value)[0].parent

        def tell(done: int, total: int) -> None:
            if not self._gone:
                self._progress.visible, self._progress.value = True, 100 * done / total

        path = self._editor.path()
        try:
            count = self._app.film.render(path, folder, tell)
        finally:
            if not self._gone:
                self._progress.visible = False
        self.note("Rendered" if count == len(path.cameras) else "Stopped",
                  f"{count} of {_counted(len(path.cameras), 'frame')}: {folder}")

    def _cancel(self) -> None:
        if not self._app.film.cancel():
            raise NpcrError("no path is being rendered")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
