# SPDX-License-Identifier: Apache-2.0
"""Operators of torch in a frame and a training step of the strands form, by place: counted, not timed, on a CPU.

    python benchmarks/operators.py

Where a picture is small a GPU waits for the host, which takes microseconds for each operator:
    computing  those for which a GPU runs kernels, one or more for each
    host       those that bring numbers from the host or to it; on a GPU a copy, which the host may have to wait for
    other      those that only allocate memory, or look at it in another way
An operator that is made of others counts as these. "kernels" are calls of the functions of pcpr_ext, which do not come
through torch; each of them runs one kernel or several. Neither size nor points change a number.

"frame" is what benchmarks/strands.py times, from a camera to RGBA; "path" a frame of `npcr render` without blending, to
its bytes; "step" a training step with the recommended loss and optimizer, which steps as it does on a GPU. A place is
the file of npcr that called the operator, or of torch where none did.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import pcpr_ext  # noqa: E402
from benchmarks import blended, strands  # noqa: E402
from benchmarks.common import environment, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.config import from_dict  # noqa: E402
from npcr.config.recommended import RECOMMENDED  # noqa: E402
from npcr.factory import build_loss  # noqa: E402
from npcr.rendering.frames import render_path  # noqa: E402
from npcr.training.optimizers import build_optimizer  # noqa: E402

KINDS = ("computing", "host", "other", "kernels")
COLUMNS = ("what", "place", *KINDS)
_HOST = ("aten.lift_fresh", "aten._local_scalar_dense")
_WITHOUT_KERNELS = ("aten.empty", "aten.new_empty", "aten.detach_")  # and whatever returns a view
_FOR_OTHERS = ("ops/native.py", "ops/memory.py", "renderers/acceleration.py")  # allocate and run what others ask for
_MADE_OF_OTHERS = "CompositeImplicitAutograd"  # which without gradients comes here whole
_PACKAGE = ROOT / "npcr"


class Operators(TorchDispatchMode):
    """Counts the operators of torch and the calls of compiled kernels within its context, by place and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), _MADE_OF_OTHERS):
            with self:
                return function._op_dk(getattr(torch._C.DispatchKey, _MADE_OF_OTHERS), *args, **(kwargs or {}))
        self.count(_kind(function))
        return function(*args, **(kwargs or {}))

    def count(self, kind: str) -> None:
        """Count one, at the place that is running."""
        self.counts.setdefault(_place(), Counter())[kind] += 1

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of each place, and of "all"."""
        every = sum(self.counts.values(), Counter())
        return [{"place": place, **{kind: numbers[kind] for kind in KINDS}}
                for place, numbers in [*sorted(self.counts.items()), ("all", every)]]


def _kind(function: Any) -> str:
    name = str(function)
    aliases = [each.alias_info for each in function._schema.returns]
    if name.startswith(_HOST):
        return "host"
    looks = any(alias is not None and not alias.is_write for alias in aliases)
    return "other" if looks or name.startswith(_WITHOUT_KERNELS) else "computing"


def _place() -> str:
    """The innermost file of npcr that is running, but for those that serve others; "torch" where there is none."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE) and not path.as_posix().endswith(_FOR_OTHERS):
            return path.relative_to(_PACKAGE).as_posix()
        if path.parts[-3:-1] in (("torch", "autograd"), ("torch", "optim")):
            return "/".join(path.parts[-3:-1])
        frame = frame.f_back
    return "torch"


def count(run: Callable[[], object]) -> Operators:
    """Count the operators of a function's second call: the first one may prepare something.

    Args:
        run: the function.

    Returns:
        The counts.
    """
    run()
    kernel = pcpr_ext.Library.run

    def counted(library: pcpr_ext.Library, *arguments: Any) -> None:
        operators.count("kernels")
        kernel(library, *arguments)

    with Operators() as operators, mock.patch.object(pcpr_ext.Library, "run", counted):
        run()
    return operators


def runs() -> dict[str, Callable[[], object]]:
    """Return what is counted, by name: of a scene so small that its memory comes from torch, as it does on a GPU."""
    options = argparse.Namespace(points=500, size=(32, 32), dots=5, features=4, width=8, halvings=0, field_nodes=0)
    other, camera = blended.make(options, 1, torch.device("cpu"))
    renderer = strands.make_strands(options, other, torch.device("cpu"))
    cfg = from_dict(RECOMMENDED, "recommended")
    loss, optimizer = build_loss(cfg), build_optimizer(cfg, renderer)
    for group in optimizer.param_groups:
        group["foreach"] = not group["fused"]  # torch's choice on a GPU
    target = torch.rand(1, 5, 32, 32)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        output = renderer(camera)
        loss(output.trained_color, output.alpha, output.depth, target)["total"].backward()
        optimizer.step()

    return {"frame": blended.no_grad(lambda: renderer(camera)),
            "path": lambda: list(render_path(renderer, camera, gray=1.0, blender=None)), "step": step}


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "operators.json",
                        metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = [{"what": what, **row} for what, run in runs().items() for row in count(run).rows()]
    print_table(rows, COLUMNS)
    write_json(options.output, rows, environment(torch.device("cpu"), options))
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
