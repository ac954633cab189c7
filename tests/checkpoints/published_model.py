# SPDX-License-Identifier: Apache-2.0
"""A small model built like the published one, from classes in modules of the published names."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

MODULES = ("modeling", "modeling.generatic_model", "modeling.UNet", "modeling.UNet.unet_parts", "models_lpf")
FEATURES, POINTS = 2, (7, 5)  # channels; points of two frames


def define_classes(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[nn.Module]]:
    """Define classes by the published names, in modules that can be imported until the test ends."""
    classes = {}
    for place, name in (
        ("modeling.generatic_model", "Generatic_Model"),
        ("modeling.UNet.unet_parts", "Part"),
        ("models_lpf", "Downsample"),
    ):
        classes[name] = type(name, (nn.Module,), {"__module__": place, "__qualname__": name})
    for place in MODULES:
        module = types.ModuleType(place)
        for name, kind in classes.items():
            setattr(module, name, kind)
        monkeypatch.setitem(sys.modules, place, module)
    return classes


def build_model(classes: dict[str, type[nn.Module]]) -> nn.Module:
    """Build the model with random weights everywhere, running statistics too."""
    torch.manual_seed(0)
    part, blur = classes["Part"], classes["Downsample"]

    def parts(**children: nn.Module) -> nn.Module:
        module = part()
        for name, value in children.items():
            module.add_module(name, value)
        return module

    def gated(a: int, b: int) -> nn.Module:
        return parts(conv2=nn.Conv2d(a, b, 3, padding=1), conv2_gate=nn.Conv2d(a, b, 3, padding=1))

    def norm(channels: int) -> nn.Module:
        module = nn.BatchNorm2d(channels)
        for value in (module.weight, module.bias, module.running_mean, module.running_var):
            value.data.normal_()
        module.num_batches_tracked.fill_(41)
        return module

    def double(a: int, b: int) -> nn.Module:
        return parts(conv=nn.Sequential(gated(a, b), norm(b), nn.ReLU(), gated(b, b), norm(b), nn.ReLU()))

    def down(a: int, b: int) -> nn.Module:
        halve = blur()
        halve.register_buffer("filt", torch.ones(a, 1, 3, 3))
        return parts(mpconv=nn.Sequential(nn.MaxPool2d(2, 1), halve, double(a, b)))

    def up(a: int, b: int) -> nn.Module:
        return parts(up=nn.Upsample(scale_factor=2), conv=double(a, b))

    def out(a: int, b: int) -> nn.Module:
        return parts(conv=nn.Conv2d(a, b, 1), conv2=nn.Conv2d(a, b, 3, padding=1))

    unet = parts(
        inc=parts(conv=double(FEATURES + 3, 24)),
        down1=down(24, 48),
        down2=down(48, 96),
        down3=down(96, 384),
        down4=down(384, 384),
        up1=up(768, 192),
        up2=up(288, 48),
        up3=up(96, 48),
        up4=up(72, 30),
        outc=out(30, 3),
        inc2=parts(conv=double(FEATURES + 6, 16)),
        down5=down(16, 32),
        down6=down(32, 64),
        up5=up(144, 32),
        up6=up(72, 8),
        outc2=out(8, 1),
    )
    root = classes["Generatic_Model"]()
    parameters = parts(p_parameters=nn.ParameterList([torch.randn(FEATURES, n) for n in POINTS]))
    parameters.default_features = nn.Parameter(torch.randn(FEATURES, 1))
    parameters.vertices_num = torch.tensor(POINTS, dtype=torch.int32)
    root.pcpr_parameters, root.render = parameters, parts(unet=unet)
    root.use_rgb = False
    for name, value in {"layer_num": 3, "depth_thr": 0.25, "tar_width": 60, "tar_height": 48}.items():
        setattr(root.render, name, value)
    return root


def write(model: object, path: Path, stream: bool = False) -> Path:
    """Save a whole module, as torch before 1.6 did with `stream`; its classes are then forgotten."""
    torch.save(model, path, _use_new_zipfile_serialization=not stream)
    for name in MODULES:
        sys.modules.pop(name, None)
    return path
