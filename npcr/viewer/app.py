# SPDX-License-Identifier: Apache-2.0
"""The viewer's server: connects browsers, by viser, with what renders for them."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.extras import import_extra
from npcr.viewer.browser import Browser
from npcr.viewer.film import Film
from npcr.viewer.path_editor import PathEditor
from npcr.viewer.photographs import PhotographedViews
from npcr.viewer.pictures import Engine, View
from npcr.viewer.scheduler import FrameScheduler, QuickScale

logger = logging.getLogger("npcr")

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """What a viewer is told at its start."""

    center: NDArray[np.float64]  # (3,) of the scene
    pose: NDArray[np.float64]  # (4, 4) from which a browser first looks
    fov: float  # vertical, degrees
    size: tuple[int, int]  # (width, height) of films and stills
    raw_size: tuple[int, int]  # INPUT.SIZE_RAW
    fps: float
    gray: float  # background, 0-255
    output: Path  # where saved paths and films go
    largest: int = 1024  # pixels of a full frame's longer side at most


def _unsaid() -> contextlib.AbstractContextManager[object]:
    """Keep back what viser prints of itself: commands say the address, in one way."""
    return contextlib.redirect_stdout(io.StringIO())


class ViewerApp:
    """The viewer's server, from its making until `stop`.

    Args:
        engine: renders.
        settings: of the start.
        film: writes rendered paths.
        views: photographs to compare with; None: there are none.
        host: the address to listen at.
        port: another is taken where it is not free.

    Raises:
        MissingExtraError: viser is not installed.
    """

    def __init__(self, engine: Engine, settings: Settings, film: Film, views: PhotographedViews | None = None,
                 host: str = LOCAL[0], port: int = 8080) -> None:
        viser = import_extra("viser")
        self.engine, self.settings, self.film, self.views = engine, settings, film, views
        self._browsers: dict[int, Browser] = {}
        self._scales: dict[int, QuickScale] = {}
        self._lock = threading.Lock()
        self.scheduler: FrameScheduler[View] = FrameScheduler(self._render, self._say)
        logging.getLogger("websockets").setLevel(logging.WARNING)  # else each browser that comes and goes is a line
        warnings.filterwarnings("ignore", "Queued a .* on a closed connection")  # it has gone with its frame in work
        with _unsaid():
            self.server = viser.ViserServer(host=host, port=port, label="NPCR", verbose=False)
        self.server.gui.configure_theme(show_share_button=False)  # a click would open the server to all the world
        up = -settings.pose[:3, 1]
        self.server.scene.set_up_direction(tuple(up))
        camera = self.server.initial_camera
        camera.position, camera.look_at = settings.pose[:3, 3], settings.center
        camera.fov = math.radians(settings.fov)
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)

    @property
    def address(self) -> str:
        """The address to open."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in LOCAL else host}:{self.server.get_port()}"

    @property
    def alive(self) -> bool:
        """Whether its threads, which render and talk to browsers, run."""
        return self.scheduler.alive and self.server.get_event_loop().is_running()  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Close the server."""
        self.film.close()
        self.scheduler.stop()
        with _unsaid():
            self.server.stop()

    def editor(self) -> PathEditor:
        """Make an empty path for a browser."""
        settings = self.settings
        return PathEditor(settings.center, settings.size, settings.raw_size, settings.fps)

    def _connect(self, client: Any) -> None:
        browser = Browser(self, client)
        with self._lock:
            self._scales[client.client_id] = QuickScale()
            self._browsers[client.client_id] = browser
        browser.ask()
        if client.client_id not in self.server.get_clients():  # it went before it was known
            self._disconnect(client)

    def _disconnect(self, client: Any) -> None:
        self.scheduler.remove(client.client_id)
        with self._lock:
            self._scales.pop(client.client_id, None)
            browser = self._browsers.pop(client.client_id, None)
        if browser is not None:
            browser.close()

    def _render(self, key: Hashable, view: View, quick: bool) -> None:
        with self._lock:  # so that nothing is removed of a browser that is just coming
            browser, scale = self._browsers.get(key), self._scales.get(key)  # type: ignore[call-overload]
            if browser is None or scale is None:
                self.scheduler.remove(key)  # its last request came after it had gone
                return
        shown = self.engine.show(view, scale.scale if quick else 1.0)
        if quick:
            scale.learn(shown.seconds)
        browser.draw(shown, quick)

    def _say(self, key: Hashable, error: Exception) -> None:
        if not isinstance(error, NpcrError):
            logger.warning("the viewer could not render a frame: %s: %s", type(error).__name__, error)
        browser = self._browsers.get(key)  # type: ignore[call-overload]
        if browser is not None:
            browser.say(str(error) or type(error).__name__)
