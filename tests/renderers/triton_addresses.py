# SPDX-License-Identifier: Apache-2.0
"""Every address that the Triton kernels would read or write, for any size of image and of tile, without any memory.

    TRITON_INTERPRET=1 python -m pytest tests/renderers/triton_addresses.py

No address depends on what lies in memory. So tensors here are torch's "meta" tensors, which have a size only, and
Triton's interpreter computes addresses, which are checked, while loads give ones and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from npcr.renderers.gpu import launch
from npcr.renderers.gpu.feature_map import KEPT, FeatureMap, Packed, empty_map, padded

META = torch.device("meta")
SLOW = pytest.mark.slow
FARTHEST = 44  # bits of an address within a tensor's own range, in whose middle the tensor begins; those above: which
TILES = list(product((16, 64, 256), (16, 32, 128), (16, 128)))


class _Argument:
    """A tensor at an address of its own, so that none runs into another."""

    def __init__(self, x: Tensor, place: int) -> None:
        self.dtype, self.place = x.dtype, place
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        self.bytes = (last + 1) * x.element_size() if x.numel() else 0

    def data_ptr(self) -> int:
        return (2 * self.place + 1) << (FARTHEST - 1)


class Addresses:
    """The check of one launch after the other.

    Args:
        programs: along each axis of a grid at most so many run: the first ones, the last ones, and some between.
    """

    def __init__(self, programs: int) -> None:
        self.programs = programs
        self.checked = 0
        self._bytes = np.zeros(1, np.int64)
        self._chosen: list[list[int]] = []
        self._grid: tuple[int, ...] = ()

    def check(self, pointers: Any, mask: Any) -> None:
        """Raise IndexError where an address that is not masked lies in no tensor of this launch."""
        size = pointers.get_element_ty().primitive_bitwidth // 8
        at = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        place, offset = np.divmod(at.astype(np.int64), 1 << FARTHEST)
        offset -= 1 << (FARTHEST - 1)
        known = place < len(self._bytes)
        inside = known & (offset >= 0) & (offset % size == 0)
        inside &= offset + size <= self._bytes[np.where(known, place, 0)]
        if not inside.all():
            bad = np.flatnonzero(~inside)[0]
            argument = min(int(place[bad]), len(self._bytes) - 1)
            raise IndexError(f"argument {argument - 1}: byte {offset[bad]} of {self._bytes[argument]}")
        self.checked += at.size

    def begin(self, executor: Any, arguments: Sequence[Any]) -> list[Any]:
        """Give tensors addresses, and choose programs."""
        self._grid = (*executor.grid, 1, 1)[:3]
        self._chosen = [self._some(count) for count in self._grid]
        executor.grid = tuple(len(chosen) for chosen in self._chosen)
        given = [_Argument(x, i + 1) if isinstance(x, Tensor) else x for i, x in enumerate(arguments)]
        self._bytes = np.array([0, *(x.bytes if isinstance(x, _Argument) else 0 for x in given)])
        return given

    def _some(self, count: int) -> list[int]:
        if count <= self.programs:
            return list(range(count))
        return sorted({*range(self.programs // 3), *range(count - self.programs // 3, count),
                       *np.linspace(0, count - 1, self.programs // 3, dtype=int).tolist()})

    def program(self, axis: int, place: int) -> int:
        """Return the number of the program that runs as the `place`th along an axis."""
        return self._chosen[axis][place]

    def count(self, axis: int) -> int:
        """Return the number of programs that the launch asked for along an axis."""
        return self._grid[axis]


@contextmanager
def addresses_checked(programs: int = 6) -> Iterator[Addresses]:
    """Within this, launches check addresses and do nothing else."""
    addresses = Addresses(programs)
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    call = executor.__call__

    def number(value: int) -> Any:
        return interpreter.TensorHandle(np.array([value], dtype=np.int32), interpreter.tl.int32)

    def load(_: Any, pointers: Any, mask: Any, other: Any, *args: Any) -> Any:
        addresses.check(pointers, mask)
        kind = pointers.get_element_ty()
        return interpreter.TensorHandle(np.ones(pointers.data.shape, interpreter._get_np_dtype(kind)), kind)

    with (mock.patch.object(executor, "__call__", lambda self, *args, **kwargs: call(
              self, *addresses.begin(self, args), **kwargs)),
          mock.patch.object(executor, "_init_args_hst", lambda self, args, kwargs: (args, kwargs)),
          mock.patch.object(executor, "_restore_args_dev", return_value=None),
          mock.patch.object(builder, "create_masked_load", load),
          mock.patch.object(builder, "create_masked_store", lambda _, pointers, value, mask, *args: addresses.check(
              pointers, mask)),
          mock.patch.object(builder, "create_dot", lambda _, a, b, total, *args: total),
          mock.patch.object(builder, "create_get_program_id",
                            lambda self, axis: number(addresses.program(axis, self.grid_idx[axis]))),
          mock.patch.object(builder, "create_get_num_programs", lambda self, axis: number(addresses.count(axis)))):
        yield addresses


def feature_map(batch: int, channels: int, size: tuple[int, int], is_split: bool) -> FeatureMap:
    high, low, kept = (empty_map(batch, padded(channels), *size, dtype, META)
                       for dtype in (torch.float16, torch.float16, KEPT))
    return FeatureMap(high, low if is_split else None, kept, None, channels)


def packed(rows: int, columns: int, is_split: bool) -> Packed:
    high = torch.empty(rows, columns, dtype=torch.float16, device=META)
    return Packed(high, high if is_split else None)


def convolve(batch: int, sources: Sequence[int], channels: int, size: tuple[int, int], is_split: bool, keep: bool,
             joined: bool = True) -> None:
    maps = [feature_map(batch, count, size, is_split) for count in sources]
    rows, columns = 9 * sum(padded(count) for count in sources), padded(channels)
    bias = torch.empty(2 * columns, device=META)
    found = launch.convolve_gated(maps, packed(rows, 2 * columns, is_split), bias, keep)
    if joined:
        launch.join_moments(found, bias[:channels], bias[:channels], 1e-5)
    launch.convolve(maps[0], packed(9 * padded(sources[0]), columns, is_split), bias[:columns])


def others(batch: int, channels: int, size: tuple[int, int], is_split: bool, keep: bool) -> None:
    """Every kernel but those of `convolve` and `gated_grad`."""
    height, width = size
    for x in (torch.empty(batch, channels, *size, device=META), torch.empty(
            batch, *size, channels + 3, device=META).permute(0, 3, 1, 2)[:, :channels]):
        launch.split(x, is_split, keep)
    x, small = (feature_map(batch, channels, each, is_split) for each in (size, (height // 2, width // 2)))
    affine = torch.empty(4, batch, padded(channels), device=META)
    launch.normalize(x.high.float() if is_split else x.high, affine, channels, is_split, keep)
    launch.double(small, size, is_split, keep)
    launch.halve(x, is_split, keep)
    assert x.kept is not None
    assert small.kept is not None
    codes = launch.halve(x, is_split, True)[1]
    assert codes is not None
    launch.restore(x.kept, affine)
    launch.halve_grad(small.kept, codes, size)
    launch.double_grad(x.kept, (height // 2, width // 2))


def gated_grad(batch: int, channels: int, size: tuple[int, int]) -> None:
    normal = empty_map(batch, padded(channels), *size, KEPT, META)
    share = empty_map(batch, padded(channels), *size, torch.uint8, META)
    launch.gated_grad(normal, share, normal, torch.empty(4, batch, padded(channels), device=META))


@pytest.mark.parametrize("tiles", [[(32, 16, 64), (128, 64, 32)], pytest.param(TILES, marks=SLOW)])
def test_convolutions_with_any_tile(tiles: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    with addresses_checked(3) as addresses:
        for tile in tiles:
            monkeypatch.setattr(launch, "_tile", lambda *_, tile=tile: (*tile[:2], {"BLOCK_K": tile[2]}))
            convolve(2, [3, 24], 20, (9, 11), True, True)
            convolve(1, [24], 40, (1, 1), False, False)
    assert addresses.checked > 0


@pytest.mark.parametrize(("channels", "size"), [
    (3, (3, 5)), pytest.param(35, (24, 25), marks=SLOW), pytest.param(160, (2, 2), marks=SLOW)])
@pytest.mark.parametrize("block", [1024, pytest.param(64, marks=SLOW)])
def test_the_others_with_any_block(channels: int, size: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
                                   ) -> None:
    monkeypatch.setattr(launch, "_BLOCK", block)
    monkeypatch.setattr(launch, "_SUM_BLOCK", 4 * block)
    with addresses_checked(3) as addresses:
        for both in (True, False):
            others(3, channels, size, both, both)
        gated_grad(3, channels, size)
    assert addresses.checked > 0


@pytest.mark.slow
@pytest.mark.parametrize("is_split", [True, False])
def test_the_largest_images(is_split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Almost 2^31 values in an image, WIDEST channels of as many pixels as are allowed, and more in all."""
    monkeypatch.setattr(launch, "_PROGRAMS", 1 << 22)  # so that none sums over many blocks
    with addresses_checked(3) as addresses:
        convolve(2, [24, 48], 30, (5791, 5793), is_split, True, joined=False)  # a loop over many tiles
        others(2, 64, (5791, 5793), is_split, True)
        gated_grad(2, 32, (5791, 5793))  # value and gate: 64
        convolve(50_000, [8], 384, (90, 100), is_split, True)
    assert addresses.checked > 0


def test_an_address_outside_is_found() -> None:
    x = feature_map(1, 8, (4, 5), False)
    bias = torch.empty(7, device=META)  # of 8
    with addresses_checked(), pytest.raises(interpreter.InterpreterError, match="argument 8: byte 28 of 28"):
        launch.convolve(x, packed(72, 8, False), bias)
    with addresses_checked(), pytest.raises(interpreter.InterpreterError, match="argument 0: byte -"):  # of 32 bits
        launch.split(torch.empty(1, 65, 5791, 5793, device=META), False, False)
