# SPDX-License-Identifier: Apache-2.0
"""The population of the strands form's splats: those of no use move to where they are needed, or are left out.

Moving follows 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024): the number of splats stays,
dead ones become parts of live ones, and what is seen hardly changes. But a strand is cut into pieces that lie in a row,
where there copies lie in one place and noise drives them apart. And what a splat is good for is told not by its opacity
alone, but by whether it is seen. Every random decision follows from given numbers alone, and moves are decided on the
host: a resumed run, and each of several processes, decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_APART = 0.1  # standard deviations across: how far pieces that would lie in one place are moved from each other
_SQUARES = "exp_avg_sq"  # Adam's name for the mean squares of the gradients
_OWN_SHARE = 0.1  # of a splat's gradient, beside the mean of its cell's
_UNIT = 2.0**30  # of the whole numbers that colors are added up as
_LARGEST = 2.0**10  # of a color that counts
_CELLS = 2**16  # random numbers of a grid without end, cells far from each other share one


@dataclass(frozen=True)
class Relocation:
    """What moves, and where to."""

    by: str  # how useful a splat is. "opacity": its opacity; "gradient": how much the loss depended on its color
    below: float  # a splat is dead whose use is less than this share of the mean; live ones are cut by their use
    seeds: tuple[int, ...]  # from which all random decisions follow


@dataclass(frozen=True)
class Dropping:
    """What one training step leaves out at random."""

    splats: float  # share of the splats, 0 to below 1
    cell: float  # side of the cells that are left out together, in spacings of the cloud; 0: each splat by itself
    harmonics: float  # probability that the step does without the highest degrees of the colors by direction
    seeds: tuple[int, ...]  # from which all random decisions follow


class Cut(NamedTuple):
    """Splats that become pieces of live ones, and these, which keep one piece each: R rows in all."""

    rows: NDArray[np.int64]  # (R,) the splats that become pieces, each once
    source: NDArray[np.int64]  # (R,) of which
    place: NDArray[np.float32]  # (R,) in the row of pieces, from 0
    pieces: NDArray[np.float32]  # (R,) of that row


class Pieces(NamedTuple):
    """Numbers of R pieces."""

    shift: Tensor  # (R, 3) from the middle of the whole
    strand: Tensor  # (R, 3)
    logit: Tensor  # (R,) of the opacity


def draw_cut(use: NDArray[np.float64], below: float, seeds: Sequence[int]) -> Cut:
    """Choose for each dead splat a live one to become a piece of.

    By systematic sampling: a live splat gets as many pieces as it should on average, up to rounding.

    Args:
        use: (N,) at least 0, to which the probability of a live splat is proportional.
        below: a splat is dead whose use is less than this share of the mean, 0 to 1.
        seeds: from which the choice follows.

    Returns:
        The cut, empty where no splat is dead.
    """
    dead = use < below * (use.mean() if len(use) else 0)
    moved = np.flatnonzero(dead)
    total = np.cumsum(np.where(dead, 0, use))
    if not len(moved):
        empty = np.zeros(0, np.int64)
        return Cut(empty, empty, empty.astype(np.float32), empty.astype(np.float32))
    at = (np.arange(len(moved)) + np.random.default_rng(seeds).random()) / len(moved) * total[-1]
    # Up to the sum's last step, so that rounding chooses no splat beyond it.
    chosen = np.minimum(np.searchsorted(total, at, side="right"), np.searchsorted(total, total[-1]))  # ascending
    whole, first, count = np.unique(chosen, return_index=True, return_counts=True)
    group = np.searchsorted(whole, chosen)
    place = np.arange(len(moved)) - first[group] + 1
    return Cut(np.concatenate([moved, whole]), np.concatenate([chosen, whole]),
               np.concatenate([place, np.zeros_like(whole)]).astype(np.float32),
               (np.concatenate([count[group], count]) + 1).astype(np.float32))


def cut_strands(strands: Tensor, widths: Tensor, logits: Tensor, place: Tensor, pieces: Tensor) -> Pieces:
    """Compute the pieces into which splats are cut.

    The n pieces of a half strand s have half strands s' = 4 s / sqrt(13 + 3 n²) and lie 1.5 s' from each other: the
    covariance of all is that of the whole, and between them there are no gaps. Each has the opacity o / q, with q =
    n sqrt((w² + s'²) / (w² + s²)), so that opacity times area, what thin splats cover, adds up to that of the whole.

    Args:
        strands: (R, 3) half strands of the wholes, world units or any other.
        widths: (R,) in the same unit; those of the pieces, too.
        logits: (R,) of their opacities.
        place: (R,) of the piece in its row, from 0.
        pieces: (R,) of that row, n.

    Returns:
        The pieces, in the unit of strands and widths.
    """
    shorter = 4 / torch.sqrt(13 + 3 * pieces.square())
    length, width = strands.square().sum(1), widths.square()
    several = pieces * torch.sqrt((width + shorter.square() * length) / (width + length))
    strand = shorter[:, None] * strands
    return Pieces((1.5 * (place - (pieces - 1) / 2))[:, None] * strand, strand,
                  torch.logit(torch.sigmoid(logits) / several))


def random_shifts(count: int, seeds: Sequence[int]) -> Tensor:
    """Draw the moves by which pieces of round splats, which would lie in one place, come apart.

    Args:
        count: of pieces.
        seeds: from which the moves follow.

    Returns:
        (count, 3) in standard deviations across, on the CPU.
    """
    return torch.from_numpy(_APART * np.random.default_rng(seeds).standard_normal((count, 3), np.float32))


def copy_rows(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, rows: Tensor, source: Tensor,
              pieces: Tensor) -> None:
    """Give rows of parameters the values of other rows, and the optimizer a state for them.

    Momentum starts from 0. Adam's mean squares are not reset, which would make the next steps several times too long:
    they are those of the whole, divided by the number of pieces.

    Args:
        parameters: (N, …), changed.
        optimizer: changed where it has states of these parameters.
        rows: (R,) to change, each once.
        source: (R,) where from; values before the change.
        pieces: (R,) into how many each source is cut.
    """
    for parameter in parameters:
        parameter.detach().index_copy_(0, rows, parameter.detach().index_select(0, source))
        for name, value in _row_states(parameter, optimizer).items():
            shares = pieces.view(-1, *[1] * (value.ndim - 1)).to(value.dtype)
            value.index_copy_(0, rows, value.index_select(0, source) / shares if name == _SQUARES
                              else value.new_zeros(len(rows), *value.shape[1:]))


def mean_gradients(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return how large the gradients of a parameter's rows have been.

    Args:
        parameter: (N, …).
        optimizer: Adam or a relative of it.

    Returns:
        (N,) the norm of the root mean squares; 0 where the optimizer has made no step.
    """
    squares = optimizer.state.get(parameter, {}).get(_SQUARES)
    return parameter.new_zeros(len(parameter)) if squares is None else squares.flatten(1).sum(1).sqrt()


def learning_rate(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> float:
    """Return the rate at which an optimizer makes a parameter learn now.

    Args:
        parameter: of any group.
        optimizer: which has it; else 0 is returned.

    Returns:
        The rate.
    """
    return next((group["lr"] for group in optimizer.param_groups
                 if any(one is parameter for one in group["params"])), 0.0)


def keep_rows(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, rows: Tensor) -> nn.Parameter:
    """Make a parameter of some rows of another, and let the optimizer go on with it.

    Args:
        parameter: (N, …), no longer of use.
        optimizer: in whose groups and states the new parameter replaces it.
        rows: (R,) to keep.

    Returns:
        (R, …).
    """
    kept = nn.Parameter(parameter.detach().index_select(0, rows))
    states = _row_states(parameter, optimizer)
    state = optimizer.state.pop(parameter, None)
    if state is not None:
        optimizer.state[kept] = state | {name: value.index_select(0, rows) for name, value in states.items()}
    for group in optimizer.param_groups:
        group["params"] = [kept if other is parameter else other for other in group["params"]]
    return kept


def kept_share(positions: Tensor, spacing: float, dropping: Dropping) -> Tensor:
    """Draw which splats a training step draws.

    Args:
        positions: (N, 3) world coordinates; with cells, splats of one of them share their lot.
        spacing: of the cloud, world units.
        dropping: what to leave out.

    Returns:
        (N,) factors of the opacities: 0 of what is left out, and 1 / (1 - share) of all else, so that the coverage
        stays the same on average (DropGaussian, Park et al. 2025).
    """
    device = positions.device
    generator = torch.Generator(device).manual_seed(_seed(dropping.seeds))
    if dropping.cell:
        cells = _cells(positions, dropping.cell * spacing, generator)
        lots = torch.rand(_CELLS, generator=generator, device=device)[cells]
    else:
        lots = torch.rand(len(positions), generator=generator, device=device)
    return (lots >= dropping.splats) / (1 - dropping.splats)


def share_gradients(gradients: Tensor, positions: Tensor, side: float, seeds: Sequence[int]) -> None:
    """Let points learn together with their neighbors: add a tenth of each one's gradient to the mean of its cell.

    What Adam makes of a gradient depends on how steady it is, not on how large. The few pixels of one splat hardly tell
    how its color changes with direction; those of a cell are steady, and what is the splat's own comes slowly. The grid
    lies elsewhere in each step, so that cells have no borders.

    Args:
        gradients: (N, …), changed; their sum over a cell keeps its direction.
        positions: (N, 3) world coordinates, finite where they share.
        side: of the cells, world units, above 0.
        seeds: from which the place of the grid follows.
    """
    generator = torch.Generator(positions.device).manual_seed(_seed(seeds))
    cells = _cells(positions, side, generator)
    rows = gradients.flatten(1)
    sums = rows.new_zeros(_CELLS, rows.shape[1] + 1)
    sums.index_add_(0, cells, torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1))
    means = sums[:, :-1] / sums[:, -1:].clamp_min(1)
    gradients.mul_(_OWN_SHARE).add_(means.index_select(0, cells).view_as(gradients))


def smooth_colors(colors: Tensor, weights: Tensor, positions: Tensor, side: float, share: float,
                  seeds: Sequence[int]) -> None:
    """Bring the colors of points nearer to those of their neighbors: to the weighted mean of their cell.

    Where splats cover each other, what photographs have of grain is best said by colors far from each other. The grid
    lies elsewhere each time.

    Args:
        colors: (N, …), changed.
        weights: (N,) of the mean, 0 to 1.
        positions: (N, 3) world coordinates, finite where they are to have neighbors.
        side: of the cells, world units, above 0.
        share: of the difference from the mean that goes, 0 to 1.
        seeds: from which the place of the grid follows.
    """
    generator = torch.Generator(positions.device).manual_seed(_seed(seeds))
    cells = _cells(positions, side, generator)
    rows = colors.flatten(1)
    weighted = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1) * weights[:, None]
    # Whole numbers, whose sums a GPU makes in any order alike.
    sums = torch.zeros(_CELLS, weighted.shape[1], dtype=torch.int64, device=colors.device)
    sums.index_add_(0, cells, (weighted.nan_to_num(0, 0, 0).clamp(-_LARGEST, _LARGEST) * _UNIT).round().long())
    means = (sums[:, :-1] / sums[:, -1:].clamp_min(1)).to(colors.dtype)
    found = (sums[:, -1:] > 0).index_select(0, cells)
    colors.add_(torch.where(found, means.index_select(0, cells) - rows, 0).view_as(colors), alpha=share)


def harmonic_degree(degree: int, dropping: Dropping) -> int:
    """Draw the degree of the colors by direction with which a training step does (after Fang et al. 2026).

    Args:
        degree: of the model.
        dropping: what to leave out.

    Returns:
        `degree`, or with the given probability one of the lower ones.
    """
    rng = np.random.default_rng([*dropping.seeds, 1])
    return int(rng.integers(degree)) if degree and rng.random() < dropping.harmonics else degree


def _cells(positions: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """Draw a grid and return (N,) the cell of each position, from 0 to below `_CELLS`."""
    corner = torch.rand(3, generator=generator, device=positions.device)
    x, y, z = torch.floor(positions.nan_to_num() / side + corner).long().unbind(1)
    return (73856093 * x + 19349663 * y + 83492791 * z) % _CELLS


def _seed(seeds: Sequence[int]) -> int:
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _row_states(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
    """What an optimizer keeps for each row of a parameter, by name."""
    return {name: value for name, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape}
