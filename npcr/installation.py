# SPDX-License-Identifier: Apache-2.0
"""Where this package lies: in a clone, or installed as a wheel, which carries the few files that commands need.

Such a file has its home in the clone; setup.py copies it into the wheel. Nothing here needs torch.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_PARENT = _PACKAGE.parent

CLONE: Path | None = _PARENT if (_PARENT / "pyproject.toml").is_file() else None
SHIPPED = _PACKAGE / "shipped"  # only in a wheel and in a source distribution
COMMIT_FILE = "COMMIT"


def shipped_file(name: str) -> Path:
    """Find a file that a command needs.

    Args:
        name: its path in the clone, such as configs/demo.yml.

    Returns:
        Its path here.
    """
    return (CLONE or SHIPPED) / name


def from_clone(name: str) -> Path:
    """Name a file or folder that lies in a clone, and in the current folder where there is no clone.

    Args:
        name: its path there.

    Returns:
        The path, relative without a clone.
    """
    return (CLONE or Path()) / name


def commit() -> str | None:
    """Tell which commit this code is.

    Returns:
        40 digits, with "-dirty" where files differed from it; of a wheel, what it was built from. None where nothing
        tells.
    """
    if CLONE is not None and (CLONE / ".git").exists():
        try:
            done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                                  cwd=CLONE, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() or None
    file = SHIPPED / COMMIT_FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
