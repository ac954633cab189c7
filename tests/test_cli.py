# SPDX-License-Identifier: Apache-2.0
"""The scripts' common options."""

import pytest

from npcr import cli
from npcr.errors import ConfigError


def test_without_arguments_the_users_own_configuration_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = cli.make_parser("d", "e").parse_args([])
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
        cli.config_from_args(cli.make_path_parser("d", "e").parse_args([]))
