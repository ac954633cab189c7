# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest
import torch

from npcr.ops.memory import MemoryPool


def test_memory_is_used_again_and_never_twice_at_once() -> None:
    pool = MemoryPool()
    first, second = pool.empty(300, 400), pool.empty(300, 400)
    assert first.data_ptr() != second.data_ptr()
    place = first.data_ptr()
    first.fill_(1), second.fill_(2)
    assert first.sum() == 300 * 400
    view = first[10:20]
    del first
    third = pool.empty(300, 400)
    assert third.data_ptr() != place  # a view still holds it
    del view
    assert pool.empty(299, 400).data_ptr() == place


def test_every_type_has_its_size() -> None:
    for dtype, size in ((torch.float32, 4), (torch.float16, 2), (torch.int16, 2), (torch.uint8, 1)):
        pool = MemoryPool()
        x = pool.empty(3, 70001, dtype=dtype)
        assert (x.dtype, x.shape, x.is_contiguous()) == (dtype, (3, 70001), True)
        assert 0 <= pool.bytes_in_use - 3 * 70001 * size <= 3 * 70001 * size / 16 + 4096
        x.fill_(7)
        assert (x == 7).all()
        del x
        assert pool.bytes_in_use == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_forked_process_has_its_own() -> None:
    pool = MemoryPool()
    kept = pool.empty(300, 400).fill_(1)
    child = os.fork()
    if child == 0:
        kept.numpy().fill(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (kept == 1).all()


def test_small_tensors_are_torchs_own() -> None:
    pool = MemoryPool()
    kept = pool.empty(10, 10)
    assert kept.shape == (10, 10)
    assert pool.bytes_in_use == 0


def test_free_memory_stays_bounded() -> None:
    pool = MemoryPool()
    for rows in range(100, 3000, 150):  # sizes that fit nothing freed before
        pool.empty(rows, 1000)
    most = 4 * 2850 * 1000 * 1.1
    assert pool.bytes_in_use == 0
    assert pool.bytes_free <= 1.2 * most
    pool.release()
    assert pool.bytes_free == 0


def test_autograd_may_keep_them() -> None:
    pool = MemoryPool()
    x = pool.empty(200, 200).fill_(3).requires_grad_()
    y = x * x
    del x
    (gradient,) = torch.autograd.grad(y.sum(), y.grad_fn.next_functions[0][0].variable)
    assert (gradient == 6).all()
