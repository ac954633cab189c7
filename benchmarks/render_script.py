# SPDX-License-Identifier: Apache-2.0
"""Frames per second of `tools/render.py` by stage: rendering, copying to the host, JPEG, PNG, video, and in total.

    python benchmarks/render_script.py
    python benchmarks/render_script.py --baseline 5f93f7b
    python benchmarks/render_script.py --device cuda --form blended

Frames are ready in the device's memory: a mosaic of photographs of datasets/bob with their mattes, hair as sharp as its
pixels, which moves. With --form, a renderer with random weights renders each frame, and the ready one replaces it.
Each of jpeg, png and video is one thread writing by itself; "total" is the script's loop, with all of them. --baseline
measures a commit, too, in turns with this tree; "of_baseline" is this tree's speed relative to it. "cpu_ms" is
processor time, the encoders' included, and hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import options as forms  # noqa: E402
from benchmarks.common import environment, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras, concatenate  # noqa: E402
from npcr.errors import NpcrError  # noqa: E402
from npcr.io.images import read_image, write_image  # noqa: E402
from npcr.io.video import VideoWriter  # noqa: E402
from npcr.renderers import RenderOutput  # noqa: E402
from npcr.rendering.frame_writer import FrameWriter  # noqa: E402
from npcr.rendering.frames import FramePixels, render_path  # noqa: E402

COLUMNS = ("tree", "stage", "fps", "ms", "low_ms", "high_ms", "cpu_ms", "of_baseline")
GRAY = 200 / 255
PICTURES = 12  # a path shows them in turn


class ReadyRenderer:
    """Renders pictures that are ready in memory; where a renderer is given, after that has rendered one of its own."""

    tile = 0  # `render_path` asks: pictures are whole, and the same in a path
    as_path_frames = staticmethod(nullcontext)

    def __init__(self, pictures: list[NDArray[np.uint8]], device: torch.device, renderer: Any = None) -> None:
        self.device = device
        self._renderer = renderer
        self._outputs = itertools.cycle([self._output(torch.from_numpy(rgba).to(device)) for rgba in pictures])

    @staticmethod
    def _output(rgba: Tensor) -> RenderOutput:
        straight = rgba.permute(2, 0, 1)[None].float() / 255
        alpha = straight[:, 3:]
        empty = straight.new_empty(0)
        return RenderOutput(straight[:, :3] * alpha, alpha, (alpha[:, 0] > 0) * 2.0, empty, empty, empty)

    def eval(self) -> None:
        """Do nothing: `render_path` calls this."""

    def __call__(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        if self._renderer is not None:
            self._renderer(cameras, frame)
        return next(self._outputs)


def ready_pictures(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """(H, W, 4) straight RGBA each: a mosaic of hair that moves to the right and back."""
    folder = ROOT / "datasets" / "bob" / "img" / "0"
    tiles = [np.dstack([read_image(file)[..., :3], read_image(file.with_name(f"{file.stem}_alpha.png"))[..., 0]])
             for file in sorted(folder.glob("*.jpg"))]
    side = tiles[0].shape[0]
    columns, rows = (-(-length // side) for length in size)
    mosaic = np.vstack([np.hstack([tiles[(row * columns + column) % len(tiles)] for column in range(columns)])
                        for row in range(rows)])[:size[1], :size[0]]
    places = [*range(PICTURES // 2 + 1), *range(PICTURES // 2 - 1, 0, -1)]
    return [np.ascontiguousarray(np.roll(mosaic, 2 * place, axis=1)) for place in places]


class Script:
    """The stages of the script, each as a function that handles all frames of the path."""

    def __init__(self, options: argparse.Namespace) -> None:
        device, size = torch.device(options.device), tuple(options.size)
        inner = None
        if options.form == "ready":
            camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], size)
        else:
            inner, camera = forms.make(options, options.form, device)
        self.device = device
        self.renderer: Any = ReadyRenderer(ready_pictures(size), device, inner)
        self.cameras = concatenate([camera.to("cpu")] * options.frames)
        self.shown = list(self._path(self.cameras[:PICTURES]))

    def stages(self, folder: Path) -> dict[str, Callable[[], None]]:
        """Return the stages by name; those that write do so into `folder`."""
        return {"render": self._render, "render and copy": lambda: [None for _ in self._path(self.cameras)],
                "jpeg": lambda: self._write(lambda frame, n: write_image(folder / f"{n}.jpg", frame.picture)),
                "png": lambda: self._write(lambda frame, n: write_image(folder / f"{n}.png", frame.rgba)),
                "video": lambda: self._write_video(folder), "total": lambda: self._run(folder)}

    def _path(self, cameras: Cameras) -> Iterator[FramePixels]:
        return render_path(self.renderer, cameras, gray=GRAY, blender=None)

    @torch.inference_mode()
    def _render(self) -> None:
        for index in range(len(self.cameras)):
            self.renderer(self.cameras[index].to(self.device))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _write(self, write: Callable[[FramePixels, int], object]) -> None:
        for number in range(len(self.cameras)):
            write(self.shown[number % len(self.shown)], number)

    def _write_video(self, folder: Path) -> None:
        with VideoWriter(folder / "alone.mp4", 30) as video:
            self._write(lambda frame, _: video.write(frame.picture))

    def _run(self, folder: Path) -> None:
        with FrameWriter(folder, 30, False) as writer:
            for frame in self._path(self.cameras):
                writer.write(frame)


def serve(options: argparse.Namespace) -> None:
    """Measure each stage once for each line on standard input; write JSON lines: [seconds, processor time] by stage."""
    script = Script(options)
    print("ready", flush=True)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measured = {name: _timed(run) for name, run in script.stages(Path(folder)).items()}
        print(json.dumps(measured), flush=True)


def _timed(run: Callable[[], object]) -> tuple[float, float]:
    start, before = time.perf_counter(), os.times()
    run()
    after = os.times()
    return time.perf_counter() - start, sum(after[:4]) - sum(before[:4])


@contextmanager
def commit_tree(commit: str, build: bool) -> Iterator[Path]:
    """Check a commit out into a temporary folder, with this script and, where `build`, its compiled kernels."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        added = subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT,
                               check=False)
        if added.returncode:
            raise NpcrError(f"--baseline {commit}: git cannot check it out; see its message above")
        try:
            shutil.copy(__file__, tree / "benchmarks")
            if build:
                subprocess.run([sys.executable, "-m", "pcpr_ext.build"], cwd=tree, check=True)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)


@contextmanager
def worker(tree: Path, arguments: Sequence[str]) -> Iterator[Callable[[], dict[str, tuple[float, float]]]]:
    """Start `serve` in a process that imports a tree; yield a function that measures the stages once."""
    command = [sys.executable, str(tree / "benchmarks" / Path(__file__).name), *arguments, "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def answer() -> str:
        line = process.stdout.readline()
        if not line:
            raise NpcrError(f"the benchmark of {tree} ended; see its message above")
        return line

    def measure() -> dict[str, tuple[float, float]]:
        process.stdin.write("measure\n")
        process.stdin.flush()
        measured: dict[str, tuple[float, float]] = json.loads(answer())
        return measured

    try:
        answer()
        yield measure
    finally:
        process.stdin.close()
        process.wait()


def measured_rows(options: argparse.Namespace, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Measure every stage of each tree, in turns; return their rows, the baseline's first."""
    rounds: dict[str, list[dict[str, tuple[float, float]]]] = {}
    with ExitStack() as stack:
        trees = {"this": ROOT}
        if options.baseline:
            base = stack.enter_context(commit_tree(options.baseline, build=options.form != "ready"))
            trees = {options.baseline: base, **trees}
        measures = {name: stack.enter_context(worker(tree, arguments)) for name, tree in trees.items()}
        for number in range(1 + options.rounds):
            for name, measure in measures.items():
                result = measure()
                if number:  # the first is to warm up
                    rounds.setdefault(name, []).append(result)
                print(f"round {number}, {name}: {options.frames / result['total'][0]:.1f} fps", file=sys.stderr)
    return [_row(options, name, stage, results, rounds.get(options.baseline) if name == "this" else None)
            for name, results in rounds.items() for stage in results[0]]


def _row(options: argparse.Namespace, tree: str, stage: str, results: list[dict[str, tuple[float, float]]],
         baseline: list[dict[str, tuple[float, float]]] | None) -> dict[str, Any]:
    times = sorted(result[stage][0] / options.frames * 1e3 for result in results)
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    row = {"tree": tree, "stage": stage, "fps": 1e3 / median, "ms": median, "low_ms": low, "high_ms": high,
           "cpu_ms": statistics.median(result[stage][1] for result in results) / options.frames * 1e3}
    if baseline is not None:
        row["of_baseline"] = statistics.median(then[stage][0] / now[stage][0]
                                               for then, now in zip(baseline, results, strict=True))
    return row


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", default="", metavar="COMMIT", help="measure this commit, too")
    parser.add_argument("--form", choices=("ready", "layered", "blended"), default="ready",
                        help="what renders each frame (default: nothing, it is ready)")
    parser.add_argument("--frames", type=int, default=40, help="of the path (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--points", type=lambda text: int(float(text)), default=90_000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=[600, 600], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--folder", type=Path, help="on the disk to write to (default: the system's temporary folder)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "render_script.json")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    # What `benchmarks.options.make` takes beside these.
    parser.set_defaults(zoom=1.0, norm="instance", dots=5, width=16)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.serve:
        serve(options)
        return 0
    recorded = ("baseline", "form", "frames", "rounds", "size", "points", "layers", "device")
    described = environment(torch.device(options.device)) | {
        "options": {name: getattr(options, name) for name in recorded if getattr(options, name) != ""}}
    rows = measured_rows(options, arguments)
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
