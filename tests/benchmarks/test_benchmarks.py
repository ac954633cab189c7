# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, at sizes that say nothing about speed, and their plain forms agree with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from benchmarks import (
    agreement,
    blended,
    blending,
    frame,
    network_bytes,
    network_kernels,
    network_profile,
    options,
    projection,
    scaling,
    scaling_out,
    strands,
    training_minute,
    training_step,
)
from npcr.ops import compiled_available
from npcr.renderers import FORMS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")]


def run(module: Any, folder: Path, *arguments: str) -> dict[str, Any]:
    output = folder / "result.json"
    assert module.main([*arguments, "--repeats", "1", "--output", str(output)]) == 0
    result: dict[str, Any] = json.loads(output.read_text())
    assert {"processor", "torch", "commit"} <= result["environment"].keys()
    return result


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_frame_equals_the_plain_one(norm: str, tmp_path: Path) -> None:
    rows = run(frame, tmp_path, "--points", "2000", "--layers", "2", "--size", "50", "46", "--norm", norm,
               "--plain-repeats", "1")["rows"]
    assert [row["what"] for row in rows] == ["projection", "gather", "network", "compositing", "write", "frame",
                                             "plain frame"]
    assert rows[-1]["error"] < 1e-3


def test_variants_of_a_training_step_take_the_same_steps(tmp_path: Path) -> None:
    variants = ["plain", "ours", "half", "recompute", "both"]
    small = ["--points", "500", "--layers", "2", "--size", "32", "28", "--variants", *variants]
    rows = run(training_step, tmp_path, *small)["rows"]
    assert [row["variant"] for row in rows] == variants
    for row in rows[1:]:
        assert row["losses"][0] == pytest.approx(rows[0]["losses"][0], rel=1e-4)
    assert [row["variant"] for row in rows if 0 < row.get("gradient_error", 0) < 0.01] == ["half", "both"]


def test_the_network_with_and_without_kernels(tmp_path: Path) -> None:
    small = ("--points", "500", "--size", "32", "28", "--variants", "torch", "kernels")
    rows = run(network_kernels, tmp_path, *small)["rows"]
    assert [(row["what"], row["variant"]) for row in rows] == [
        ("frame", "torch"), ("frame", "kernels"), ("step", "torch"), ("step", "kernels")]
    assert [row["of_first"] for row in rows[::2]] == [1, 1]
    assert all(0 <= row["error"] < 1e-3 for row in rows[1::2])
    assert rows[1]["error"] > 0  # or the same network ran twice


def test_the_networks_kernels_move_less_than_half_as_much(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert network_bytes.main(["--layers", "2", "--size", "400", "400", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    shares = {(row["what"], row["way"]): row["of_torch"] for row in rows if row["operation"] == "all"}
    assert shares.pop(("frame", "torch")) == shares.pop(("step", "torch")) == 1
    assert shares.keys() == {(what, way) for what in ("frame", "step") for way in ("float16", "float16x2")}
    assert all(0.1 < share < 0.5 for share in shares.values())


def test_a_profile_names_the_longest_first(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert network_profile.main(["--points", "500", "--layers", "1", "--size", "32", "28", "--precisions", "float32",
                                 "--rows", "3", "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [row["what"] for row in rows] == ["frame"] * 4 + ["step"] * 4
    for total, *others in (rows[:4], rows[4:]):
        times = [row["ms"] for row in others]
        assert times == sorted(times, reverse=True)
        assert total["kernel"] == "all"
        assert total["ms"] > sum(times)


def test_projection_equals_the_plain_one(tmp_path: Path) -> None:
    rows = run(projection, tmp_path, "--points", "3000", "--layers", "3", "--size", "40", "40")["rows"]
    assert all(row["equal"] for row in rows if row["method"] in ("reference", "plain"))


def test_the_blended_forms_kernel_equals_its_twin(tmp_path: Path) -> None:
    rows = run(blended, tmp_path, "--points", "3000", "--layers", "4", "--size", "48", "40", "--dots", "3")["rows"]
    assert [row["stage"] for row in rows][-2:] == ["frame", "step without optimizer"]
    composed = [row for row in rows if row["stage"].startswith("compositing")]
    assert len(composed) == 2
    assert all(row["error"] < 1e-4 and row["twin_ms"] > 0 for row in composed)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_for_a_minute(form: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert training_minute.main(["--forms", form, "--minutes", "0.001", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    row, = result["rows"]
    assert (row["form"], row["steps"]) == (form, 1)
    assert 5 < row["psnr"] < 40
    assert result["environment"]["options"] == {"forms": [form], "minutes": 0.001, "scene": "datasets/bob",
                                                "device": "cpu"}


def test_a_cpu_agrees_with_itself(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    few = ["--forms", "blended", "--minutes", "0.001", "--precisions", "float32", "bfloat16"]
    assert agreement.main([*few, "--output", str(output)]) == 0
    rows = {row["precision"]: row for row in json.loads(output.read_text())["rows"]}
    assert all(row["same_again"] and row["same_deterministic"] for row in rows.values())
    assert rows["float32"]["picture"] == rows["float32"]["gradient"] == 0
    assert 0 < rows["bfloat16"]["gradient"] < 0.02


def test_scaling_draws_a_plot(tmp_path: Path) -> None:
    rows = run(scaling, tmp_path, "--vary", "layers", "side", "--layers", "1", "2", "--sides", "24", "48")["rows"]
    assert [row["layers"] for row in rows] == [1, 2, 2, 2]
    plot = cv2.imread(str(tmp_path / "result.png"))
    assert plot.shape == (320, 840, 3)
    assert plot.min() < 100


def test_scaling_of_the_blended_form(tmp_path: Path) -> None:
    rows = run(scaling, tmp_path, "--form", "blended", "--vary", "points", "--points", "500", "2000")["rows"]
    assert [row["points"] for row in rows] == [500, 2000]
    assert all(0 < row["projection_ms"] < row["frame_ms"] for row in rows)


def test_scaling_of_the_strands_form_beside_the_blended_one(tmp_path: Path) -> None:
    few = ("--points", "2000", "--sides", "48", "--coverages", "20", "80")
    rows = run(scaling, tmp_path, "--form", "strands", *few)["rows"]
    assert [row["vary"] for row in rows] == ["points", "side", "coverage", "coverage"]
    assert all(row["frame_ms"] > 0 for row in rows)
    assert ["blended_ms" in row for row in rows] == [True, True, False, False]
    assert [row["coverage"] for row in rows[2:]] == pytest.approx([20, 80], rel=0.01)
    assert cv2.imread(str(tmp_path / "result.png")).shape == (320, 1260, 3)
    with pytest.raises(SystemExit):
        run(scaling, tmp_path, "--form", "strands", "--vary", "layers")


def test_options_of_both_forms(tmp_path: Path) -> None:
    rows = run(options, tmp_path, "--variants", "plain", "bfloat16", "--steps", "--points", "500", "--layers", "2",
               "--size", "32", "28", "--norm", "batch")["rows"]
    assert [(row["form"], row["variant"]) for row in rows] == [
        ("layered", "plain"), ("layered", "bfloat16"), ("blended", "plain"), ("blended", "bfloat16")]
    assert all(row["step_ms"] > 0 for row in rows)
    errors = [row["error"] for row in rows[1::2]]
    assert min(errors) > 0
    assert max(errors) < 0.2


def test_a_margin_is_the_layered_forms(tmp_path: Path) -> None:
    few = ("--variants", "plain", "margin", "--points", "500", "--size", "48", "40", "--norm", "none", "--zoom", "0.3")
    rows = run(options, tmp_path, "--forms", "layered", *few)["rows"]
    assert [row["variant"] for row in rows] == ["plain", "margin"]
    assert rows[1]["error"] is None
    with pytest.raises(SystemExit):
        run(options, tmp_path, *few)


@pytest.mark.parametrize("variant", ["fast", "bfloat16+float16", "compiled+compiled", "plain+graphs"])
def test_an_unknown_variant_is_refused(variant: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(options, tmp_path, "--variants", variant)


def test_blending_beside_a_frame(tmp_path: Path) -> None:
    rows = run(blending, tmp_path, "--points", "500", "--size", "32", "28")["rows"]
    assert [row["stage"] for row in rows] == ["frame", "blending", "blending in torch"]
    assert all(row["share"] > 0 for row in rows)


def test_strands_beside_the_blended_form_and_the_reference(tmp_path: Path) -> None:
    small = ["--points", "500", "--size", "32", "28", "--layers", "2"]
    rows = run(strands, tmp_path, *small, "--reference")["rows"]
    assert [row["form"] for row in rows] == ["blended", "strands", "reference"] * 4
    with_network = run(strands, tmp_path, *small, "--width", "8")["rows"]
    assert {row["stage"] for row in with_network} == {row["stage"] for row in rows} | {"network"}
    frame_row = next(row for row in rows if (row["form"], row["stage"]) == ("strands", "frame"))
    assert frame_row["error"] < 1e-5
    assert frame_row["of_blended"] > 0
    assert frame_row["of_reference"] > 0


def test_several_processes_send_their_gradients(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert scaling_out.main(["--forms", "strands", "--size", "32", "--steps", "2", "--output", str(output)]) == 0
    one, two = json.loads(output.read_text())["rows"]
    assert (one["processes"], one["sent_mb"], one["efficiency"]) == (1, 0, 1)
    assert two["sent_mb"] == pytest.approx(two["gradients_mb"]) == one["gradients_mb"]
    assert 0 < one["rows_seen"] <= two["rows_seen"] <= 1
    assert two["1 Gbit/s"] == pytest.approx(8 * two["sent_mb"])
