# SPDX-License-Identifier: Apache-2.0
"""Running out of memory ends in a sentence: how much was asked for, at which size, and what needs less."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from npcr import cli
from npcr.config import changed, default_config
from npcr.errors import OutOfMemoryError
from npcr.evaluation.views import evaluate_views
from npcr.factory import build_renderer, point_bytes
from npcr.io.points import PointCloud
from npcr.ops.memory import POOL
from npcr.out_of_memory import explain_out_of_memory, free_memory, is_out_of_memory
from npcr.rendering.frames import render_path
from npcr.training.optimizers import build_optimizer
from npcr.training.trainer import Trainer
from tests.path_stub import PlaneRenderer, orbit

ROOT = Path(__file__).resolve().parents[1]
HUGE = 1 << 55  # bytes: more than any address space has
CUDA = ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which 1.50 MiB is "
        "free. Including non-PyTorch memory, this process has 15.70 GiB memory in use.")


def _torch() -> None:
    torch.empty(HUGE, dtype=torch.uint8)


def _numpy() -> None:
    np.empty(HUGE, np.uint8)


def _pool() -> None:
    POOL.empty(HUGE, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [_torch, _numpy, _pool])
def test_the_allocators_own_errors_are_understood(allocate) -> None:
    with (pytest.raises(OutOfMemoryError, match=r"memory ran out \(32(\.0)? PiB asked for\) in training at 600x400"),
          explain_out_of_memory("training", (600, 400), "Less helps")):
        allocate()


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(("error", "message"), [
    (torch.OutOfMemoryError(CUDA), r"GPU memory ran out \(20.00 MiB asked for, 1.50 MiB of 15.77 GiB free\)"),
    (RuntimeError("CUDA error: out of memory"), "GPU memory ran out in"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU memory ran out"),
    (MemoryError(), "host memory ran out in"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "host memory ran out in"),
    (RuntimeError("npcr_rasterize: out of memory (status -3)"), "host memory ran out in"),
])
def test_errors_of_memory_become_a_sentence(error: BaseException, message: str) -> None:
    with (pytest.raises(OutOfMemoryError, match=message + ".*rendering at 8x6 pixels. Less helps"),
          explain_out_of_memory("rendering", (8, 6), "Less helps")):
        _raise(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OSError(errno.ENOSPC, "No space left"),
                                   ValueError("out of memory")])
def test_other_errors_stay(error: BaseException) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised, explain_out_of_memory("training", (1, 1), ""):
        _raise(error)
    assert raised.value is error


class _Greedy(PlaneRenderer):
    def forward(self, *_: object) -> None:
        _torch()


def test_rendering_names_its_keys() -> None:
    with pytest.raises(OutOfMemoryError, match=r"PiB asked for\) in rendering at .*INPUT.SIZE_TEST.*RENDER.PRECISION"):
        next(render_path(_Greedy(), orbit(1), gray=0.0, blender=None))


def test_training_and_evaluating_name_their_keys(tmp_path: Path) -> None:
    from tests.training.test_trainer import config, write_tiny_scene

    scene = write_tiny_scene(tmp_path / "tiny", cameras=5, size=(32, 28))
    trainer = Trainer(config(scene, tmp_path / "out"), torch.device("cpu"))
    trainer.renderer.forward = lambda *_: _torch()
    with pytest.raises(OutOfMemoryError, match=r"in training at 24x24 .*INPUT.SIZE_TRAIN.*SOLVER.RECOMPUTE_LAYERS"):
        trainer.run()
    with pytest.raises(OutOfMemoryError, match=r"in evaluating at \d+x\d+ .*TEST.IMS_PER_BATCH"):
        evaluate_views(trainer.renderer, trainer.dataset, [(0, 0)], progress=False)


def test_a_script_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(_numpy)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: host memory ran out (32")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_run_that_really_has_too_little_memory(tmp_path: Path) -> None:
    limited = ("import npcr.entry_point, resource, runpy, sys, npcr.cli, npcr.training.trainer\n"
               "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
               "resource.setrlimit(resource.RLIMIT_AS, (used + 900 * 2**20,) * 2)\n"
               "sys.argv[0] = 'tools/train.py'; runpy.run_path('tools/train.py', run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", limited, "--config-file", "datasets/bob/scene.yml", "OUTPUT_DIR",
                           str(tmp_path / "out"), "MODEL.DEVICE", "cpu", "MODEL.FORM", "layered", "INPUT.SIZE_TRAIN",
                           "[4000, 4000]", "SOLVER.MAX_EPOCHS", "1"], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    # Which allocation is the one too many, and whether it says its size, differs from machine to machine.
    assert last.startswith("error: host memory ran out")
    assert "need less" in last


def strands_of(count: int, **keys: object) -> tuple[CfgNode, list[PointCloud]]:
    positions = np.random.default_rng(0).random((count, 3), np.float32)
    return changed(default_config(), MODEL__FORM="strands", **keys), [PointCloud(positions, None)]


def test_a_points_bytes_are_those_of_its_numbers() -> None:
    cfg, _ = strands_of(1, MODEL__FEATURE_DIM=4, MODEL__HARMONICS=2)
    assert point_bytes(cfg) == 4 * (3 + 4 + 27 + 3 + 3 + 1 + 1)  # place, features, color, move, strand, opacity, width
    assert point_bytes(changed(cfg, MODEL__NETWORK=False, MODEL__HARMONICS=0)) == 4 * (3 + 3 + 3 + 3 + 1 + 1)


def test_a_cloud_beyond_memory_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, clouds = strands_of(1000)
    monkeypatch.setattr("npcr.factory.MANY_POINTS", 1000)
    monkeypatch.setattr("npcr.out_of_memory.free_memory", lambda device: 100 * point_bytes(cfg))
    with pytest.raises(OutOfMemoryError, match=r"numbers of 1000 points need .* KiB of host memory, \d+ bytes a "
                                               r"point; .* KiB are free. At most 100 points fit"):
        build_renderer(cfg, clouds)
    assert build_renderer(cfg, [PointCloud(clouds[0].positions[:100], None)]).points(0).shape == (100, 3)


@pytest.mark.parametrize(("optimizer", "copies"), [("Adam", 3), ("SGD", 2)])
def test_training_is_refused_before_its_first_step(optimizer: str, copies: int,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, clouds = strands_of(500, MODEL__NETWORK=False, SOLVER__OPTIMIZER_NAME=optimizer)
    renderer = build_renderer(cfg, clouds)
    needed = copies * sum(parameter.nbytes for parameter in renderer.parameters())
    monkeypatch.setattr("npcr.out_of_memory.free_memory", lambda device: needed)
    build_optimizer(cfg, renderer)
    monkeypatch.setattr("npcr.out_of_memory.free_memory", lambda device: needed // 2)
    with pytest.raises(OutOfMemoryError, match=f"numbers of {optimizer} of 500 points .* At most 250 points"):
        build_optimizer(cfg, renderer)


def test_the_hosts_free_memory_is_known_on_linux() -> None:
    free = free_memory(torch.device("cpu"))
    assert (free is not None and 2**20 < free < 2**50) if sys.platform == "linux" else free is None
