# SPDX-License-Identifier: Apache-2.0
"""What the processes that train or refine tell each other in a step: gradients, losses, and whether one is to stop.

A gradient is a sum over the views of a batch, so that N processes with one view each are one process with N views. All
gradients go in one tensor, dense: a view touches most rows of the points' tables (docs/distributed.md has figures).
Parameters without a gradient anywhere, as those of frames that a batch does not show, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from npcr import distributed


class StepExchange:
    """Adds up the gradients and losses of all processes. All of them must make one, and use it at the same time.

    Args:
        device: of the parameters.
    """

    def __init__(self, device: torch.device) -> None:
        self._group = distributed.device_group(device)
        self.bytes = 0  # of the last step's gradients and losses, which each process gives and gets

    def add_up(self, parameters: Sequence[nn.Parameter], losses: Tensor, stop: bool) -> bool:
        """Replace gradients and losses by their sums over all processes.

        Args:
            parameters: those that are trained, in the same order everywhere; their gradients change.
            losses: float32 on the parameters' device, of any shape, 0 where another process has the value; changed.
            stop: whether this process is to stop after the step.

        Returns:
            Whether any is.

        Raises:
            LostProcessError: a process did not answer.
        """
        flags = torch.tensor([stop, *(parameter.grad is not None for parameter in parameters)], dtype=torch.int32)
        distributed.sum_over(flags)  # by the host alone: it does not wait for the gradients
        stopping, *there = flags.tolist()
        gradients = [parameter.grad if parameter.grad is not None else _zeros(parameter)
                     for parameter, processes in zip(parameters, there, strict=True) if processes]
        together = torch.cat([losses.flatten(), *(gradient.flatten() for gradient in gradients)])
        self.bytes = together.numel() * together.element_size()
        self.sum(together)
        sums = together.split([losses.numel(), *(gradient.numel() for gradient in gradients)])
        for into, total in zip([losses, *gradients], sums, strict=True):
            into.copy_(total.view(into.shape))
        return bool(stopping)

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes.

        Args:
            tensor: on the parameters' device, of the same shape everywhere; changed.

        Raises:
            LostProcessError: a process did not answer.
        """
        distributed.sum_over(tensor, self._group)


def _zeros(parameter: nn.Parameter) -> Tensor:
    parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
