# SPDX-License-Identifier: Apache-2.0
"""A frame of the strands form calls few operators of torch: where it is small, a GPU waits for the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import operators
from npcr.ops import compiled_available

pytestmark = pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")

# Of a frame at most. Whoever needs more raises them, measures on a GPU, and writes the table of docs/strands-form.md.
CEILING = {"computing": 56, "host": 1, "other": 38, "kernels": 5}


def test_a_frame_calls_few_operators() -> None:
    frame = operators.runs()["frame"]
    counted = operators.count(frame)
    everywhere = counted.rows()[-1]
    assert everywhere.pop("place") == "all"
    assert all(number <= CEILING[kind] for kind, number in everywhere.items()), counted.rows()
    assert operators.count(frame).rows() == counted.rows()


def test_each_kind_of_operator_is_counted_at_its_place() -> None:
    numbers = torch.rand(3, 3)

    def run() -> None:
        torch.einsum("ij,jk->ik", numbers, numbers)  # made of others: a product of matrices, and views
        float(numbers[0, 0] + torch.tensor(1.0))

    for mode in (torch.no_grad, torch.inference_mode):
        place, everywhere = operators.count(mode()(run)).rows()
        assert place["place"] == "torch"
        assert (place["computing"], place["host"], place["kernels"]) == (2, 2, 0)
        assert place["other"] >= 4
        assert everywhere == place | {"place": "all"}


def test_the_script_counts_a_frame_a_path_and_a_step(tmp_path: Path) -> None:
    output = tmp_path / "operators.json"
    assert operators.main(["--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    for what in ("frame", "path", "step"):
        *places, everywhere = [row for row in rows if row["what"] == what]
        assert {"cameras.py", "renderers/residual_unet.py", "renderers/strands.py"} <= {row["place"] for row in places}
        assert everywhere["place"] == "all"
        for kind in operators.KINDS:
            assert everywhere[kind] == sum(row[kind] for row in places) > 0
