# SPDX-License-Identifier: Apache-2.0
"""The command `npcr`: its list, its examples in both ways of calling, and what it says of mistakes."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import npcr
from npcr import command_line
from npcr.command_names import COMMANDS, as_typed, called_by_script, to_start
from npcr.config import load_config
from npcr.importers import importers

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
TYPED = {"npcr": {name: f"npcr {name}" for name in COMMANDS},
         "script": {name: f"python {command.script}" for name, command in COMMANDS.items()}}


def help_text(name: str, way: str, *more: str) -> str:
    called = called_by_script() if way == "script" else contextlib.nullcontext()
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit), called:
        command_line.load_command(name).parse([*more, "--help"])
    return out.getvalue()


def examples(text: str, way: str) -> list[tuple[str, list[str]]]:
    """The commands at the beginning of lines, continued by backslashes, without what only a shell reads."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for name, typed in TYPED[way].items():
            if re.match(rf" *{re.escape(typed)}( |$)", line):
                words = shlex.split(re.sub(r" 2?> .*", "", line), comments=True)
                found.append((name, words[len(typed.split()):]))
    return found


def check(name: str, words: list[str]) -> None:
    """Parse as the command does, and its KEY VALUE pairs as the configuration does."""
    args = command_line.load_command(name).parse(words)
    if pairs := getattr(args, "options", None):
        load_config(None, pairs)


@pytest.mark.parametrize("way", TYPED)
@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_every_help_work_as_written(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = help_text(name, way)
    assert text.startswith(f"usage: {TYPED[way][name]} [-h]")
    mine = [words for command, words in examples(text, way) if command == name]
    assert len(mine) >= (2 if name != "demo" else 3)
    for command, words in examples(text, way):
        check(command, words)
    other = {"npcr": "python (tools|ExParamGen)/", "script": r"^ *npcr [a-z]+ "}[way]
    assert not re.search(other, text, re.MULTILINE)


@pytest.mark.parametrize("kind", [importer.name for importer in importers()])
def test_every_kind_of_import_shows_the_examples(kind: str) -> None:
    text = help_text("import", "npcr", kind)
    assert text.startswith(f"usage: npcr import {kind} [-h]")
    assert examples(text, "npcr") == examples(help_text("import", "npcr"), "npcr")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("way", TYPED)
def test_commands_on_a_page_work_as_written(page: Path, way: str) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for name, words in examples("\n".join(blocks), way):
        check(name, words)


@pytest.mark.parametrize("words", [words for name, words in examples(help_text("orbit", "npcr"), "npcr")
                                   if "--cloud" not in words], ids=" ".join)
def test_examples_of_orbit_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    command_line.main(["orbit", *words])
    name = "path.json" if "output/path.json" in words else "CamPose.inf"
    assert list(tmp_path.glob(f"**/{name}"))
    assert name in capsys.readouterr().out


def test_the_list_names_every_command_in_the_order_of_need(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main([])
    text = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  +\w", text, re.MULTILINE) == list(COMMANDS)
    walk = examples(text, "npcr")
    assert [name for name, _ in walk] == ["demo", "fuzzy", "train", "evaluate", "orbit", "render"]
    for name, words in walk:
        check(name, words)
    command_line.main(["--help"])
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(("word", "said"), [
    ("trian", "npcr has no command trian; did you mean npcr train?"),
    ("exgen", "did you mean npcr orbit?"),
    ("carve_hull", "did you mean npcr carve?"),
    ("xyz", "npcr has no command xyz\n"),
    ("--config-file", "npcr has no option --config-file\n"),
])
def test_an_unknown_command_suggests_the_near_one(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([word, "--help"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_version_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["--version"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["npcr"] == npcr.__version__
    assert list(lines) == ["npcr", "commit", "kernels", "torch", "python", "device"]


def test_listing_and_refusing_load_no_torch() -> None:
    code = ("import contextlib, sys\nfrom npcr.command_line import main\nmain([]), main(['--help'])\n"
            "with contextlib.suppress(SystemExit): main(['trian'])\nsys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_command_starts_another_as_it_was_called(tmp_path: Path) -> None:
    (tmp_path / "npcr").mkdir()
    (tmp_path / "npcr" / "__init__.py").write_text("raise ImportError('another npcr, of the current folder')")
    done = subprocess.run([*to_start("convert"), "none.pth", "out.pth"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: none.pth: no such file\n")
    with called_by_script():
        assert to_start("convert") == [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py")]
        assert as_typed("run npcr check SCENE") == "run python tools/check_scene.py SCENE"
    assert as_typed("run npcr check SCENE") == "run npcr check SCENE"


def test_every_script_is_a_command() -> None:
    scripts = {str(file.relative_to(ROOT)) for folder in ("tools", "ExParamGen")
               for file in (ROOT / folder).glob("*.py")}
    assert scripts == {command.script for command in COMMANDS.values()}
    modules = {file.stem for file in (ROOT / "npcr" / "commands").glob("*.py")} - {"__init__"}
    assert modules == {command.module for command in COMMANDS.values()}


def test_a_folder_of_models_means_its_newest(tmp_path: Path) -> None:
    from npcr.checkpoints import choose_model

    for epoch in (2, 10):
        (tmp_path / f"nr_model_{epoch}.pth").touch()
    assert choose_model(tmp_path, "elsewhere", -1) == tmp_path / "nr_model_10.pth"
    assert choose_model(None, tmp_path, 2) == tmp_path / "nr_model_2.pth"
    assert choose_model(tmp_path / "own.pth", "elsewhere", -1) == tmp_path / "own.pth"
