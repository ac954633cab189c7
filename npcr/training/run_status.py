# SPDX-License-Identifier: Apache-2.0
"""How a training run fares, in OUTPUT_DIR/status.json: for `npcr summary`, and for whoever watches many runs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from npcr import distributed
from npcr.io.json_files import write_json

FILE = "status.json"
HEARTBEAT = 30.0  # seconds from one sign of life to the next
Progress = Callable[[], dict[str, Any]]  # plain values by name, such as steps


class RunStatus:
    """Keeps a run's status file up to date; a context manager around the run.

    The file says "running" at first, with process and machine, and from then on every `HEARTBEAT` seconds. It ends with
    "finished", "stopped" (Ctrl-C), or "failed" and the error's message. Of a process that was killed the last sign of
    life stays. Of several processes of torchrun the first one writes.

    Args:
        folder: OUTPUT_DIR; is made where it is missing.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._progress: Progress = dict
        self._fixed = {"started": time.time(), "machine": socket.gethostname(), "process": os.getpid()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-status", daemon=True)

    def __enter__(self) -> RunStatus:
        self._write("running")
        if distributed.is_writer():
            self._thread.start()
        return self

    def watch(self, progress: Progress) -> None:
        """Take what the file also says of the run from here on from `progress`, which is called in a thread."""
        self._progress = progress

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if error is None:
            self._write("finished")
        elif isinstance(error, KeyboardInterrupt):
            self._write("stopped", "by Ctrl-C")
        else:
            with contextlib.suppress(OSError):  # such as the full disk that ended the run, whose message matters more
                self._write("failed", str(error) or type(error).__name__)

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # the run itself says what ails the disk; the next may get through
                self._write("running")

    def _write(self, state: str, message: str = "") -> None:
        if not distributed.is_writer():
            return
        write_json(self.path, {"state": state, "message": message, **self._fixed, "last_sign": time.time(),
                               **self._progress()})
