# SPDX-License-Identifier: Apache-2.0
"""Builds the native kernels, and adds the clone's files that commands need; everything else is in pyproject.toml.

The kernels are plain shared libraries, called through ctypes: no extension of Python's, and no torch at build time, so
that one wheel serves every version of both. Without a compiler the installation succeeds and all runs in plain torch
(pcpr_ext/build.py lists the environment variables that choose compilers, libraries and architectures).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not look here

from npcr.installation import COMMIT_FILE, SHIPPED, commit  # noqa: E402
from pcpr_ext import KINDS, library_path  # noqa: E402
from pcpr_ext.build import build_all  # noqa: E402

NEEDED = ("configs/*.yml", "ExParamGen/CamPose.inf")  # by commands; `npcr.installation.shipped_file` finds them


def write_commit(root: Path) -> None:
    """Write the commit beside the package's code in `root`; nothing where it is not known."""
    known = commit()
    if known:
        file = root / SHIPPED.relative_to(ROOT) / COMMIT_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{known}\n", encoding="utf-8")


class BuildPackage(build_py):
    """Adds the files that commands need, and the commit."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # they are found in the clone
        for pattern in NEEDED:
            for file in ROOT.glob(pattern):
                target = Path(self.build_lib) / SHIPPED.relative_to(ROOT) / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(file), str(target))
        write_commit(Path(self.build_lib))


class SourceDistribution(sdist):
    """Adds the commit, which git does not tell of an unpacked archive."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


class BuildKernels(build_ext):
    """Puts the libraries into the wheel, or beside the sources for an editable installation."""

    def _in_place(self) -> bool:
        return bool(self.inplace or getattr(self, "editable_mode", False))

    def _folder(self) -> Path:
        return ROOT / "pcpr_ext" if self._in_place() else Path(self.build_lib) / "pcpr_ext"

    def run(self) -> None:
        if not self._in_place():
            for kind in KINDS:  # of an earlier build, which may have been another one
                library_path(kind, self._folder()).unlink(missing_ok=True)
        for line in build_all(self._folder()):
            print(f"pcpr_ext: {line}")

    def get_outputs(self) -> list[str]:
        paths = (library_path(kind, self._folder()) for kind in KINDS)
        return [str(path) for path in paths if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable installation builds in place, nothing is copied


class Wheel(bdist_wheel):
    """Tags a wheel by what is in it: a platform where it holds a library, any where it is pure torch."""

    def get_tag(self) -> tuple[str, str, str]:
        held = any(library_path(kind, Path(self.bdist_dir) / "pcpr_ext").is_file() for kind in KINDS)
        return ("py3", "none", super().get_tag()[2] if held else "any")


# The extension has no sources: it only makes setuptools call BuildKernels.
setup(ext_modules=[Extension("pcpr_ext._pcpr", sources=[])],
      cmdclass={"build_py": BuildPackage, "sdist": SourceDistribution, "build_ext": BuildKernels,
                "bdist_wheel": Wheel})
