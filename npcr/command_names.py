# SPDX-License-Identifier: Apache-2.0
"""The commands, and how a person types them: `npcr train`, or `python tools/train.py` for one who called a script.

Texts say `npcr train`; `as_typed` turns them into what works in the way in which this process was called. Nothing here
needs torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from npcr.installation import CLONE


class Command(NamedTuple):
    """One command: the module in npcr/commands with its code, its script in the clone, what it does in a line."""

    module: str
    script: str
    summary: str


# In the order in which a person needs them.
COMMANDS = {
    "demo": Command("demo", "tools/demo.py", "the whole way on a generated scene: train, evaluate, render, refine"),
    "import": Command("import_scene", "tools/import_scene.py",
                      "make a scene of photographs and cameras: COLMAP, nerfstudio, Blender, Metashape, ..."),
    "carve": Command("carve_hull", "tools/carve_hull.py", "make a scene's point cloud from its mattes"),
    "check": Command("check_scene", "tools/check_scene.py", "find mistakes in a scene before training"),
    "fuzzy": Command("make_fuzzy_scene", "tools/make_fuzzy_scene.py", "generate a small furry animal, in seconds"),
    "hair": Command("make_hair", "tools/make_hair.py", "ray trace a scene of hair or fur (extra hair)"),
    "train": Command("train", "tools/train.py", "train on a scene"),
    "evaluate": Command("evaluate", "tools/evaluate.py", "score held-out views, or the steadiness of a video"),
    "summary": Command("summary", "tools/summary.py", "status, scores and time of many training runs"),
    "view": Command("view", "tools/view.py", "look at a model in the browser, film paths (extra viewer)"),
    "orbit": Command("orbit", "ExParamGen/exgen.py", "make a camera path"),
    "render": Command("render", "tools/render.py", "render a camera path: pictures, mattes, video"),
    "refine": Command("refine", "tools/refine.py", "refine a model, so that its videos are steadier"),
    "compare": Command("compare", "tools/compare.py", "show renderings side by side, wiped or subtracted"),
    "gif": Command("gif", "ExParamGen/gif.py", "make a GIF or another video of pictures or a video"),
    "export": Command("export_splats", "tools/export_splats.py", "write the strands form as splats for other viewers"),
    "convert": Command("convert_checkpoint", "tools/convert_checkpoint.py", "convert a published checkpoint"),
}
_NAMED = re.compile(rf"\bnpcr ({'|'.join(COMMANDS)})\b")
_START = "import sys; sys.path[0] = {!r}; from npcr.command_line import main; main()"

_by_script = False


@contextmanager
def called_by_script() -> Iterator[None]:
    """Let `as_typed` and `to_start` name scripts within the context.

    Yields:
        Nothing.
    """
    global _by_script
    before, _by_script = _by_script, True
    try:
        yield
    finally:
        _by_script = before


def is_called_by_script() -> bool:
    """Return whether a script of the clone was called, not `npcr`.

    Returns:
        As said.
    """
    return _by_script


def as_typed(text: str) -> str:
    """Write commands in a text as the user of this process types them.

    Args:
        text: with commands such as `npcr train`.

    Returns:
        The same, or with `python tools/train.py` in their place where a script was called.
    """
    return _NAMED.sub(lambda found: f"python {COMMANDS[found[1]].script}", text) if _by_script else text


def to_start(name: str) -> list[str]:
    """Make the command line that starts a command in a process of its own, called as this one was.

    Args:
        name: of the command.

    Returns:
        Python and its arguments, to which the command's own are added.
    """
    if _by_script:
        assert CLONE is not None  # scripts lie there
        return [sys.executable, str(CLONE / COMMANDS[name].script)]
    # Not "-m npcr": that would take another npcr that lies in the current folder.
    return [sys.executable, "-c", _START.format(str(Path(__file__).resolve().parents[1])), name]
