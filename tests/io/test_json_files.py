# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from npcr.io.json_files import write_json


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    write_json(path, {"psnr": [1.5, math.inf], "pair": (-math.inf, 2), "means": {"ssim": np.float64("nan")}, "x": None})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"psnr": [1.5, None], "pair": [None, 2], "means": {"ssim": None}, "x": None}
    assert text.startswith('{\n "psnr"')
    assert text.endswith("}\n")


def test_a_value_that_json_lacks_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert json.loads(path.read_text(encoding="utf-8")) == [1]
    assert list(tmp_path.iterdir()) == [path]
