# SPDX-License-Identifier: Apache-2.0
"""The scripts' common options."""

import logging

import pytest
import torch

from npcr import cli
from npcr.errors import ConfigError


def test_without_arguments_the_users_own_configuration_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = cli.make_parser("train", "d", "e").parse_args([])
    with pytest.raises(ConfigError, match=r"configs/config\.yml: no such .*Hair\.yml.*Wolf\.yml.*demo\.yml"):
        cli.config_from_args(args)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yml").write_text("SOLVER:\n  MAX_EPOCHS: 7\n")
    cfg, keys = cli.config_from_args(args)
    assert cfg.SOLVER.MAX_EPOCHS == 7
    assert "SOLVER.MAX_EPOCHS" in keys


def test_a_path_tool_reads_what_lies_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"models/config\.yml: no such"):
        cli.config_from_args(cli.make_path_parser("render", "d", "e").parse_args([]))


V100 = (7, 0)


@pytest.mark.parametrize(("capability", "compiled", "usable"), [
    (V100, ["sm_75", "sm_80", "sm_90", "compute_120"], False),
    (V100, ["sm_70", "sm_75"], True),
    ((8, 6), ["sm_75", "sm_80"], True),  # the same generation
    ((8, 0), ["sm_75", "sm_86"], False),
    ((12, 1), ["sm_90", "compute_90"], True),  # PTX is compiled when it is loaded
    ((12, 1), ["sm_90a"], False),
    ((9, 0), ["gfx90a", "gfx942"], True),  # AMD's: no statement on CUDA
])
def test_a_gpu_that_torch_was_not_compiled_for(capability, compiled, usable, monkeypatch, caplog):
    for name, value in {"is_available": True, "device_count": 1, "get_arch_list": compiled,
                        "get_device_capability": capability, "get_device_name": "Tesla V100"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with caplog.at_level(logging.WARNING, "npcr"):
        device = cli.resolve_device("cuda:0")
    assert device == torch.device("cuda:0" if usable else "cpu")
    assert ("was not compiled for Tesla V100" in caplog.text) == (not usable)
    if not usable:
        assert f"{capability[0]}.{capability[1]}; for {', '.join(compiled)} alone" in caplog.text
        assert "pip install 'torch<2.11' 'torchvision<0.26' (docs/versions.md)" in caplog.text
