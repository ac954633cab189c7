# SPDX-License-Identifier: Apache-2.0
"""What a GPU does to the host, on a CPU: copies that arrive only when they are waited for, and operations that wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# On a GPU each of these looks at a result of the device.
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_linalg_check_errors"}


class LateCopy:
    """A `npcr.transfers.HostCopy` that is never there before it is waited for."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = [tensor.detach().clone() for tensor in tensors]
        self._was_read = False

    def is_ready(self) -> bool:
        return self._was_read

    def read(self) -> list[Tensor]:
        self._was_read = True
        return self._tensors


class WaitCounter(TorchDispatchMode):
    """Lists the operations within it for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in WAITING or by_mask:
            self.waits.append(name)
        return function(*args, **(kwargs or {}))
