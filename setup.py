# SPDX-License-Identifier: Apache-2.0
"""Builds the native kernels during installation; everything else is in pyproject.toml.

They are plain shared libraries, called through ctypes: no extension of Python's, and no torch at build time.
Without a compiler the installation succeeds and the projection runs in plain torch (pcpr_ext/build.py lists
the environment variables that choose compilers and architectures).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # an isolated build does not look here

from pcpr_ext import KINDS, library_path  # noqa: E402
from pcpr_ext.build import build_all  # noqa: E402


class BuildKernels(build_ext):
    """Puts the libraries into the wheel, or beside the sources for an editable installation."""

    def _folder(self) -> Path:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        return ROOT / "pcpr_ext" if in_place else Path(self.build_lib) / "pcpr_ext"

    def run(self) -> None:
        for line in build_all(self._folder()):
            print(f"pcpr_ext: {line}")

    def get_outputs(self) -> list[str]:
        paths = (library_path(kind, self._folder()) for kind in KINDS)
        return [str(path) for path in paths if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable installation builds in place, nothing is copied


# The extension has no sources: it only makes setuptools call BuildKernels and tag the wheel with a platform.
setup(ext_modules=[Extension("pcpr_ext._pcpr", sources=[])], cmdclass={"build_ext": BuildKernels})
