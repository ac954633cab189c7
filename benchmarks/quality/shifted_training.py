# SPDX-License-Identifier: Apache-2.0
"""tools/train.py with photographs that are shifted, or blurred as shifting blurs, in one of several ways.

    python benchmarks/quality/shifted_training.py WAY [what tools/train.py takes]

A shift by parts of a pixel does two things: it moves the pixel grid over the model, and, since the photograph is
interpolated, it blurs. The ways tell them apart (docs/quality.md): DATASETS.SHIFT is the largest shift of each.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from npcr.data.samples import Sample, SceneDataset  # noqa: E402

# The mean of bilinear kernels at random places between pixels has a variance of 1/6, which this has along each axis.
BLUR = (1 / 12, 10 / 12, 1 / 12)
_A = -0.75  # of the cubic kernel, as torch's interpolation has it (Keys 1981 has -0.5)


def linear(offset: float) -> tuple[list[int], list[float]]:
    """Return places and weights of linear interpolation.

    Args:
        offset: 0 to below 1, beyond a pixel.

    Returns:
        Pixels, relative to that one, and their weights.
    """
    return [0, 1], [1 - offset, offset]


def cubic(offset: float) -> tuple[list[int], list[float]]:
    """Return places and weights of cubic convolution (Keys 1981), which blurs less; as `linear`."""
    def near(x: float) -> float:
        return ((_A + 2) * x - (_A + 3)) * x * x + 1

    def far(x: float) -> float:
        return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A

    return [-1, 0, 1, 2], [far(1 + offset), near(offset), near(1 - offset), far(2 - offset)]


def moved(picture: Tensor, x: float, y: float, kernel: Callable[[float], tuple[list[int], list[float]]]) -> Tensor:
    """Move a picture.

    Args:
        picture: (C, H, W) 0 to 1.
        x: pixels to the left.
        y: pixels up.
        kernel: of the interpolation.

    Returns:
        (C, H, W) 0 to 1; border pixels go on beyond the border.
    """
    for axis, offset in ((2, x), (1, y)):
        whole = int(np.floor(offset))
        places, weights = kernel(offset - whole)
        size = picture.shape[axis]
        rows = torch.arange(size)
        picture = sum((weight * picture.index_select(axis, (rows + whole + place).clamp(0, size - 1))
                       for place, weight in zip(places, weights, strict=True)), torch.zeros_like(picture))
    return picture.clamp(0, 1)


def blurred(picture: Tensor) -> Tensor:
    """Blur a picture, (C, H, W), by `BLUR`."""
    channels = len(picture)
    kernel = picture.new_tensor(BLUR)
    padded = F.pad(picture[None], (1, 1, 1, 1), mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, 3).expand(channels, 1, 1, 3), groups=channels)
    return F.conv2d(across, kernel.view(1, 1, 3, 1).expand(channels, 1, 3, 1), groups=channels)[0]


def make_sample(way: str, dataset: SceneDataset, frame: int, camera: int, rng: np.random.Generator,
                shift: float) -> Sample:
    """Make a training sample: a whole photograph moved in one of the `WAYS`, with the camera that belongs to it.

    Args:
        way: of moving.
        dataset: of the photographs.
        frame: from 0.
        camera: from 0.
        rng: of the shift.
        shift: the largest, pixels along x and along y.

    Returns:
        The sample.
    """
    sample = dataset.sample(frame, camera)
    if way == "blur":
        sample.target.copy_(blurred(sample.target))
        return sample
    x, y = shift * (2 * rng.random(2) - 1)
    if way == "whole":
        x, y = np.round((x, y))
    sample.target.copy_(moved(sample.target, x, y, cubic if way == "cubic" else linear))
    sample.cameras.intrinsics[:, :2, 2] -= torch.tensor([x, y], dtype=sample.cameras.intrinsics.dtype)
    return sample


WAYS = {"whole": "by whole pixels", "linear": "interpolated linearly", "cubic": "interpolated by cubic convolution",
        "blur": "not moved, blurred as linear interpolation does on average"}


def main(way: str, arguments: list[str]) -> None:
    """Run tools/train.py in one of the `WAYS`."""
    if way not in WAYS:
        sys.exit(f"error: {way}: no such way of shifting; there are {', '.join(WAYS)}")

    def augmented_sample(self: SceneDataset, frame: int, camera: int, rng: np.random.Generator, *, shift: float,
                         **_: Any) -> Sample:
        return make_sample(way, self, frame, camera, rng, shift)

    SceneDataset.augmented_sample = augmented_sample  # type: ignore[method-assign]
    script = ROOT / "tools" / "train.py"
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])
