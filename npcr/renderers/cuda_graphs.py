# SPDX-License-Identifier: Apache-2.0
"""A computation captured once as a CUDA graph and replayed: one launch a frame in place of hundreds.

All but `capture_on_gpu` is plain torch, so that it can be tested with another capture where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# What a capture gives: the memory that the result lies in, and what computes it there anew.
Captured = tuple[Tensor, Callable[[], None]]
Capture = Callable[[Callable[[], Tensor], torch.device], Captured]

_WARM_UP = 3  # runs before the capture, in which cuDNN, torch.compile and the allocator make their choices


def capture_on_gpu(run: Callable[[], Tensor], device: torch.device) -> Captured:
    """`run`, which must only read tensors that stay where they are, as a CUDA graph."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that decodes photographs onto the device meanwhile does not break the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = run()
    return output, graph.replay


class GraphReplay:
    """`replay(run, x, weights)` equals `run(x)`; `run` itself is called only when there is something new to capture.

    That is when x has another size, type or device than before, or a weight another address. Weights that changed
    where they are, as by an optimizer's step or by loading a checkpoint, are seen without. The latest capture is
    kept, no other: a path has one size. Without gradients only.
    """

    def __init__(self, capture: Capture = capture_on_gpu) -> None:
        self._capture = capture
        self._key: object = None

    def __call__(self, run: Callable[[Tensor], Tensor], x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        key = (x.shape, x.dtype, x.device, [weight.data_ptr() for weight in weights])
        if key != self._key:
            self._key = self._output = self._replay = None  # gives the memory back first
            with torch.inference_mode(False):  # memory that may be written to in either mode
                self._input = torch.empty_like(x)
            self._input.copy_(x)
            self._output, self._replay = self._capture(lambda: run(self._input), x.device)
            self._key = key
        assert self._output is not None
        assert self._replay is not None
        self._input.copy_(x)
        self._replay()
        return self._output.clone()  # the next frame is written to the same memory
