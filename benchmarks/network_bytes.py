# SPDX-License-Identifier: Apache-2.0
"""Bytes that the layered form's network moves, by operation, and keeps for its gradients: from shapes, without a GPU.

    python benchmarks/network_bytes.py
    python benchmarks/network_bytes.py --layers 1 --size 200 200

Ways:
    torch      plain torch in float32: what every operation reads and writes, as if nothing stayed in a cache
    float16    the kernels of npcr/renderers/gpu, with RENDER.PRECISION or SOLVER.PRECISION float16
    float16x2  the same with float16x2

Convolutions read each source once, which their kernels do as far as caches hold. "of_torch" is relative to the first
way; "kept" is what is there for the gradients when they begin, weights included.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from npcr.renderers.gated_unet import GatedUNet  # noqa: E402
from npcr.renderers.gpu import launch, reference  # noqa: E402
from npcr.renderers.gpu.feature_map import FeatureMap  # noqa: E402
from npcr.renderers.gpu.runner import EXACT_BLOCKS, runner_of  # noqa: E402

WAYS = ("torch", "float16", "float16x2")
COLUMNS = ("what", "way", "operation", "mb", "calls", "of_torch")
# Names of torch's operations that only look at memory in another way.
VIEWS = ("view", "slice", "select", "expand", "permute", "transpose", "unsqueeze", "squeeze", "detach", "alias", "t.",
         "as_strided", "split", "chunk", "empty", "unflatten", "diagonal")
KERNELS = ("split", "pack_weights", "convolve_gated", "convolve", "join_moments", "normalize", "restore", "halve",
           "double", "gated_grad", "halve_grad", "double_grad")


def size_of(tensors: Any) -> int:
    """Return the bytes of all tensors in some structure, each once; expanded ones as what they lie in."""
    found = {}
    for x in tree_leaves(tensors):
        if isinstance(x, Tensor):
            found[id(x)] = min(x.numel(), x.untyped_storage().nbytes() // x.element_size()) * x.element_size()
    return sum(found.values())


class _Counting(TorchDispatchMode):
    """Counts what torch's operations read and write, by name, unless a kernel is said to stand for them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.within_kernel = False

    def add(self, name: str, count: int) -> None:
        self.bytes[name] += count
        self.calls[name] += 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function).removeprefix("aten.")
        if not self.within_kernel and not name.startswith(VIEWS):
            self.add(name.split(".")[0], size_of((args, kwargs)) + size_of(result))
        return result


def _read(name: str, arguments: Sequence[Any]) -> int:
    """The bytes that a kernel reads: of a feature map its high half, and the low one where it computes with it."""
    split = {"halve": 1, "double": 2}.get(name)
    has_low = arguments[split] if split else True
    if name in ("convolve", "convolve_gated"):
        has_low = arguments[1].low is not None
    if name == "join_moments":
        return size_of([arguments[0].means, arguments[0].squares, *arguments[1:]])
    parts: list[Any] = []
    for argument in arguments:
        for x in argument if isinstance(argument, list) else [argument]:
            parts.append([x.high, x.low if has_low else None] if isinstance(x, FeatureMap) else x)
    return size_of(parts) * (2 if name == "gated_grad" else 1)  # its sums are known only after a first pass


@contextmanager
def _kernels_counted(counting: _Counting) -> Iterator[None]:
    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            counting.within_kernel = True
            result = function(*args, **kwargs)
            counting.within_kernel = False
            counting.add(name, _read(name, [*args, *kwargs.values()]) + size_of(result))
            return result

        return run

    with ExitStack() as stack:
        for name in KERNELS:
            stack.enter_context(mock.patch.object(launch, name, counted(name, getattr(launch, name))))
        # On a GPU it takes the half types as they are.
        stack.enter_context(mock.patch.object(reference, "convolve_grad", _convolve_grad))
        yield


def _convolve_grad(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    return of_x, of_weight.float()


def counted(way: str, step: bool, options: argparse.Namespace) -> tuple[_Counting, int]:
    """Count a frame's network, or a step's with its gradients; return the counts, and the bytes kept for gradients."""
    with torch.device("meta"):
        network = GatedUNet(options.channels, backend="torch")
        x = torch.empty(options.layers, *reversed(options.size), options.channels).permute(0, 3, 1, 2)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x.requires_grad_(step)
    counting = _Counting()
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage()._cdata] = saved
        return saved

    with (torch.set_grad_enabled(step), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), counting,
          _kernels_counted(counting)):
        if way == "torch":
            result = network(x)
        else:
            result = network._forward(runner_of(network, EXACT_BLOCKS if way == "float16" else None), x)
        size = sum(x.untyped_storage().nbytes() for x in kept.values())
        if step:
            result.sum().backward()
    return counting, size


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each operation, largest first, and one for all, of each way."""
    rows: list[dict[str, Any]] = []
    for step in (False, True):
        what = "step" if step else "frame"
        first = 0
        for way in WAYS:
            counting, kept = counted(way, step, options)
            total = sum(counting.bytes.values())
            first = first or total
            found = [{"what": what, "way": way, "operation": name, "mb": size / 1e6, "calls": counting.calls[name]}
                     for name, size in counting.bytes.most_common() if size > options.least * total]
            rows += [*found, {"what": what, "way": way, "operation": "all", "mb": total / 1e6,
                              "calls": sum(counting.calls.values()), "of_torch": total / first}]
            if step:
                rows.append({"what": what, "way": way, "operation": "kept", "mb": kept / 1e6})
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=[600, 600], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--channels", type=int, default=35, help="of the feature images")
    parser.add_argument("--least", type=float, default=0.02, help="share of all that a row of its own needs")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "network_bytes.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print the table, write the JSON file."""
    options = parse(arguments)
    rows = rows_of(options)
    print_table(rows, COLUMNS)
    write_json(options.output, rows, environment(torch.device("cpu"), options))
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
