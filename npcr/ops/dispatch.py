# SPDX-License-Identifier: Apache-2.0
"""The choice between compiled kernels and torch, for every operator that has both. It is made here and nowhere else."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from npcr.numerics import autocast_dtype
from npcr.ops import native
from npcr.ops.checks import OperatorError


class Operator(NamedTuple):
    """What the choice depends on beside the arguments."""

    name: str
    traced: bool  # its torch form is plain torch, which torch.compile shall see and autocast shall reach
    # The one kind of device that has kernels; on others torch is the fast way, and backend "compiled" takes it too.
    only_on: str = ""


RASTERIZE = Operator("rasterize", traced=False)
GATHER = Operator("gather_features", traced=False)
COMPOSITE = Operator("composite_dots", traced=True)
PROJECT_GAUSSIANS = Operator("project_gaussians", traced=False)
VIEW_COLORS = Operator("view_colors", traced=True)
COMPOSITE_GAUSSIANS = Operator("composite_gaussians", traced=False)
BLEND = Operator("DefaultBlender", traced=False, only_on="cpu")
COLOR_FIELD = Operator("ColorField", traced=False, only_on="cpu")
GATED_UNET = Operator("GatedUNet", traced=True, only_on="cpu")


def use_compiled(operator: Operator, backend: str, *tensors: Tensor) -> bool:
    """Decide whether an operator runs on its compiled kernel or in torch.

    Kernels take float32. Where "auto" finds none on a device that should have one, a warning gives the reason, once for
    each kind of device. While torch.compile traces, and under autocast, an operator that is plain torch stays torch.

    Args:
        operator: one of this module's constants.
        backend: "auto", "compiled" or "torch".
        tensors: floating point inputs, at least one; all on one device, unless the operator refuses that elsewhere.

    Returns:
        True for the compiled kernel, False for torch.

    Raises:
        OperatorError: backend "compiled" was asked for and cannot serve; the message gives the reason.
    """
    device = tensors[0].device
    if backend == "torch" or (operator.only_on and any(x.device.type != operator.only_on for x in tensors)):
        return False
    if operator.traced and (torch.compiler.is_compiling() or autocast_dtype(device) is not None):
        return False
    others = dict.fromkeys(str(x.dtype) for x in tensors if x.dtype != torch.float32)  # each once, in order
    if others and backend == "compiled":
        raise OperatorError(f"{operator.name}: backend 'compiled' takes torch.float32, got {', '.join(others)}")
    if others:
        return False
    missing = native.why_missing(device)
    if missing and backend == "compiled":
        raise OperatorError(f"{operator.name}: backend 'compiled' on {device}: {missing}")
    if missing:
        _warn_once(device.type)
    return not missing


# A training step beside one on kernels; `python benchmarks/strands.py --reference` measures the strands form's.
_SLOWER = {"cpu": "6 times as long in the strands form, far longer in the blended form",
           "cuda": "twice as long in the strands form, longer in the blended form"}


@functools.cache
def _warn_once(kind: str) -> None:
    reason, slower = native.why_missing(torch.device(kind)), _SLOWER.get(kind, "longer")
    warnings.warn(f"npcr.ops on {kind} runs in plain torch, slowly: {reason}. Training takes about {slower} "
                  "(docs/strands-form.md); wheels for Linux bring the kernels (docs/install.md)", RuntimeWarning,
                  stacklevel=2)
