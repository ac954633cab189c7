# SPDX-License-Identifier: Apache-2.0
"""What must be installed before anything is imported, named all at once. Needs the standard library alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# Where the module is not called as the package is.
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "pyyaml": "yaml", "pytorch-ignite": "ignite",
            "imageio-ffmpeg": "imageio_ffmpeg"}
_FOR_TESTS = ("pytest", "hypothesis")
_SPARED = ("isal",)  # npcr does the same without them, slower, and says so


class Requirement(NamedTuple):
    """A package of pyproject.toml, and the oldest version of it that will do."""

    name: str
    oldest: str

    def __str__(self) -> str:
        return f"{self.name}>={self.oldest}"


class PackagesError(RuntimeError):
    """Packages are missing and could not be installed; the message names all of them."""


def requirements(project: Path) -> list[Requirement]:
    """Read the packages that npcr and its tests need.

    Args:
        project: pyproject.toml. It is searched for its lists, since Python 3.10 has no reader of TOML.

    Returns:
        Those of `dependencies`, then those for tests of the extra `dev`.
    """
    text = project.read_text(encoding="utf-8")
    lists = {name: re.findall(r'"([\w-]+)>=([\d.]+)', body)
             for name, body in re.findall(r"^(dependencies|dev) = \[(.*?)\]\s*$", text, re.DOTALL | re.MULTILINE)}
    return [Requirement(*each) for each in lists["dependencies"]] + [
        Requirement(*each) for each in lists["dev"] if each[0] in _FOR_TESTS]


def missing(wanted: list[Requirement]) -> list[Requirement]:
    """Find out which packages are not there, without importing them.

    Args:
        wanted: the packages.

    Returns:
        Those of `wanted` that are to be installed before the check can run.
    """
    return [each for each in wanted if not _is_there(each) and each.name not in _SPARED]


def doubtful(wanted: list[Requirement]) -> list[str]:
    """Find out which packages the check runs with, or without, although npcr wants others.

    Args:
        wanted: the packages.

    Returns:
        A sentence for each.
    """
    spared = [f"{each.name} is missing; the check runs without" for each in wanted
              if each.name in _SPARED and not _is_there(each)]
    return spared + [f"{each.name} {_version(each.name)} is older than {each.oldest}, the least that npcr is tested "
                     "with; what needs it may fail" for each in wanted if _is_there(each) and _is_old(each)]


def provide(wanted: list[Requirement], wheels: Path | None, folder: Path) -> None:
    """Make sure that all packages are there, for this process and those it starts.

    Args:
        wanted: the packages.
        wheels: a folder of wheels to install what is missing from, without network; None: nothing is installed.
        folder: where to install them. No virtual environment: one that is made by another's python, as on machines
            whose torch is in an environment, would not see the packages there.

    Raises:
        PackagesError: some are missing; the message has the command that installs all of them.
    """
    lacking = missing(wanted)
    if lacking and wheels is not None:
        names = [str(each) for each in lacking]
        done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
                               "--no-index", "--find-links", str(wheels), "--target", str(folder), *names],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise PackagesError(f"--wheels {wheels}: pip could not install {', '.join(names)}:\n{done.stderr.strip()}")
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        importlib.invalidate_caches()
        lacking = missing(wanted)
    if lacking:
        quoted = " ".join(f"'{each}'" for each in lacking)
        raise PackagesError(
            f"{len(lacking)} of {len(wanted)} packages are missing for {sys.executable}: "
            f"{', '.join(map(str, lacking))}.\n"
            f"Install them:    {sys.executable} -m pip install {quoted}\n"
            f"Without network: pip download --no-deps -d wheels {quoted}, on a machine with it and the same Python\n"
            f"                 ({sys.version_info.major}.{sys.version_info.minor}); then give --wheels wheels here")


def _is_there(wanted: Requirement) -> bool:
    return importlib.util.find_spec(_MODULES.get(wanted.name, wanted.name)) is not None


def _is_old(wanted: Requirement) -> bool:
    version = _version(wanted.name)  # None: a package of another name has the module, such as opencv-python
    return version is not None and _numbers(version) < _numbers(wanted.oldest)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """2.11.0+cu130 to [2, 11, 0]."""
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]
