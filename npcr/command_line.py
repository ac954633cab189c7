# SPDX-License-Identifier: Apache-2.0
"""The command `npcr`: choose a command by its name, and start it. `npcr` and `npcr --help` load no torch."""

from __future__ import annotations

import difflib
import importlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from npcr.command_names import COMMANDS, called_by_script
from npcr.installation import commit

USAGE = """usage: npcr COMMAND ...      npcr COMMAND --help has its options and examples
       npcr --version

Neural rendering of fuzzy objects: hair, fur, feathers, plants as color and matte from any viewpoint.

{commands}

from nothing to a turning animal:
  npcr demo --quick
the same in steps:
  npcr fuzzy datasets/animal
  npcr train --config-file datasets/animal/scene.yml SOLVER.MAX_MINUTES 5
  npcr evaluate --config-file output/animal/config.yml
  npcr orbit --input datasets/animal/CamPose.inf --output output/animal/CamPose.inf --count 60 --loop \\
      --center cloud --cloud datasets/animal/pointclouds/frame1.ply
  npcr render --config-file output/animal/config.yml --cam-pose output/animal/CamPose.inf \\
      --intrinsics datasets/animal/Intrinsic.inf --checkpoint output/animal

exit status: 0 done, 1 npcr check found problems (and a mistake in NPCR itself, with a traceback), 2 a file, key or
option is wrong and the last line says which, 130 stopped by Ctrl-C"""


# The commands that several processes of torchrun run together, or refuse with a reason of their own.
TOGETHER = ("train", "render", "evaluate", "refine")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what a command line says.

    Args:
        arguments: without the program's name; None: the process's.

    Raises:
        SystemExit: with the exit status, where it is not 0, and after --help and --version.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(USAGE.format(commands=_listing()))
    elif first == "--version":
        print(_version())
    elif first in COMMANDS:
        _run(first, words[1:])
    else:
        sys.exit(_refuse(first))


def run_script(name: str) -> None:
    """Run a command as its script in the clone does, with the process's arguments.

    Args:
        name: of the command.

    Raises:
        SystemExit: as of `main`.
    """
    with called_by_script():
        _run(name, sys.argv[1:])


def load_command(name: str) -> ModuleType:
    """Import the module of a command, with the settings that must be made before torch is loaded.

    Args:
        name: of the command.

    Returns:
        The module; it has `parse` and `main`, which take the arguments after the command's name.
    """
    import npcr.entry_point  # noqa: F401  not above: a library must leave its process as it is

    return importlib.import_module(f"npcr.commands.{COMMANDS[name].module}")


def _run(name: str, arguments: Sequence[str]) -> None:
    command = load_command(name)
    from npcr import cli  # after the settings of `load_command`: this loads torch

    def main() -> None:
        if name not in TOGETHER:
            cli.refuse_processes(name)
        command.main(arguments)

    cli.run(main)


def _listing() -> str:
    width = max(map(len, COMMANDS)) + 3
    return "\n".join(f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items())


def _refuse(word: str) -> int:
    """Say that there is no such command, and which was perhaps meant; return the exit status."""
    known = {name: name for name in COMMANDS}
    for name, command in COMMANDS.items():
        known[Path(command.script).stem] = known[command.module] = name
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    what = "option" if word.startswith("-") else "command"
    hint = f"; did you mean npcr {known[near[0]]}?" if near and what == "command" else ""
    print(f"error: npcr has no {what} {word}{hint}\nnpcr --help lists what there is", file=sys.stderr)
    return 2


def _version() -> str:
    import npcr.entry_point

    # isort: split
    import torch

    import pcpr_ext

    lines = [f"npcr     {npcr.__version__}", f"commit   {commit() or 'unknown'}"]
    for kind in pcpr_ext.KINDS:
        library, unneeded = pcpr_ext.library(kind), kind == "cuda" and not torch.cuda.is_available()
        why = "only a GPU needs it, and torch finds none" if unneeded else pcpr_ext.why_missing(kind)
        lines.append(f"kernels  {kind}: {library.path if library else f'none; {why}'}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return "\n".join([*lines, f"torch    {torch.__version__}", f"python   {platform.python_version()}",
                      f"device   {device}"])
