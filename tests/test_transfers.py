# SPDX-License-Identifier: Apache-2.0
"""Copies between host and device."""

from __future__ import annotations

import pytest
import torch

from npcr.transfers import HostCopy, to_device


def test_on_the_host_nothing_is_copied_and_nothing_waits() -> None:
    value = torch.arange(3.0, requires_grad=True)
    copy = HostCopy(value)
    assert copy.is_ready()
    (read,) = copy.read()
    assert read.data_ptr() == value.data_ptr()
    assert not read.requires_grad
    assert to_device(value, "cpu") is value


@pytest.mark.gpu
def test_a_copy_to_the_host_waits_only_when_it_is_read() -> None:
    busy = torch.zeros(4096, 4096, device="cuda")
    value = torch.full((1000,), 7.0)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)  # clock ticks, a tenth of a second and more
        copy = HostCopy(to_device(value, "cuda") + busy[0, :1000])
        assert not copy.is_ready()
        assert torch.equal(copy.read()[0], value)
    assert copy.is_ready()
    assert copy.read()[0].is_pinned()
