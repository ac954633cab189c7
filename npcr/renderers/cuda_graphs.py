# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a computation is captured once and replayed, with one launch a frame in place of hundreds.

All but `capture_on_gpu` is plain torch, so that it can be tested with another capture where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The memory of the result, and a function that computes it there anew.
Captured = tuple[Tensor, Callable[[], None]]
Capture = Callable[[Callable[[], Tensor], torch.device], Captured]

_WARM_UP = 3  # runs before the capture, in which cuDNN, torch.compile and the allocator make their choices


def capture_on_gpu(run: Callable[[], Tensor], device: torch.device) -> Captured:
    """Capture a computation as a CUDA graph.

    Args:
        run: the computation; every tensor that it reads must stay at its address.
        device: a CUDA device.

    Returns:
        The result's memory, and a function that replays the graph.
    """
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
    """Computes `run(x)` by replaying its capture: `GraphReplay()(run, x, weights)`; without gradients only.

    It captures anew when x has another shape, dtype or device than before, a weight another address, or memory layout,
    or the settings are others. Weights that were changed in place, by whatever means, need no new capture. Only the
    latest capture is kept, since all frames of a path have one size. A copy starts without one.

    Args:
        capture: replaceable, so that tests need no GPU.
    """

    def __init__(self, capture: Capture = capture_on_gpu) -> None:
        self._capture = capture
        self._key: object = None

    def __call__(self, run: Callable[[Tensor], Tensor], x: Tensor, weights: Sequence[Tensor],
                 settings: object = None) -> Tensor:
        key = (x.shape, x.dtype, x.device, [_place(weight) for weight in weights], settings)
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

    def __reduce__(self) -> tuple[type[GraphReplay], tuple[Capture]]:
        return GraphReplay, (self._capture,)


def _place(weight: Tensor) -> tuple[int, torch.dtype, torch.Size, tuple[int, ...]]:
    """What a captured computation reads a weight by."""
    return weight.data_ptr(), weight.dtype, weight.shape, weight.stride()
