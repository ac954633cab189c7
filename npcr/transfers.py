# SPDX-License-Identifier: Apache-2.0
"""Copies between host and device for which the host does not wait.

An ordinary copy from or to a GPU makes the host wait until the GPU has done all the work it was given; it then has
nothing to do until the host has prepared more. On a CPU tensors are taken as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A copy of tensors on the host that their GPU may still be working on.

    Args:
        tensors: on any device; those on the host are not copied, and must not change until they are read.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # Torch puts what it copies so into page-locked memory, which the GPU writes by itself.
        self._tensors = [tensor.detach().to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        self._event: torch.cuda.Event | None = None
        devices = {tensor.device for tensor in tensors if tensor.is_cuda}
        if devices:
            self._event = torch.cuda.Event(blocking=True)  # a thread that waits for it needs no core
            self._event.record(torch.cuda.current_stream(devices.pop()))

    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return self._event is None or self._event.query()

    def read(self) -> list[Tensor]:
        """Wait for the copies.

        Returns:
            The tensors on the host.
        """
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device; from the host to a GPU by way of page-locked memory, in the order of its work.

    Args:
        tensor: on any device.
        device: of the result.

    Returns:
        The tensor there; the same one where it is there already.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
