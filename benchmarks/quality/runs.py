# SPDX-License-Identifier: Apache-2.0
"""One run of the study: tools/train.py in a process of its own, then the scores of the held-out views.

    OUTPUT/runs/NAME-seed0/settings.json   the settings of the run; written first
                           train.log, train/   log and output of the training
                           scene/          during training: the scene with the variant's cloud
                           row.png         one held-out view
                           result.json     written last: the run is finished
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from benchmarks.common import ROOT, environment
from benchmarks.quality.clouds import StudyScene, changed_cloud, image_size, splat_sizes, write_scene_copy
from benchmarks.quality.scores import mean_of, score_held_out
from benchmarks.quality.variants import RECOMMENDED_KEYS, CloudChange, Variant
from npcr.checkpoints import find_epoch, load_training_state, model_path, optimizer_path
from npcr.config import KEYS, explicit_keys, load_config
from npcr.errors import CheckpointError, ConfigError, NpcrError
from npcr.io.files import atomic_write
from npcr.io.points import PointCloud
from npcr.renderers.losses import VggFeatures
from npcr.training.optimizers import layers_at

ENDLESS = 100_000  # epochs: time ends the training
_POLL_S = 1.0
_STEP_S, _EVALUATION_S = 1.0, 20.0  # guesses for one core, before a run has shown it
_MACHINE = ("processor", "cores", "threads", "load_before", "device", "torch", "commit", "time")


@dataclass(frozen=True)
class Study:
    """The settings that all runs share."""

    scene: StudyScene
    output: Path
    longest_side: int  # of the images, pixels
    minutes: float  # of training; 0: `epochs` end it
    device: torch.device
    vgg_file: Path | None = None
    vgg: VggFeatures | None = None  # the network of that file
    keep_models: bool = False
    epochs: int = ENDLESS

    @property
    def image_size(self) -> list[int]:
        return image_size(self.scene.cfg, self.longest_side)

    @property
    def expected_s(self) -> float:
        """A first guess at the seconds of a run."""
        return (self.minutes * 60 or self.epochs * self.scene.steps_per_epoch * _STEP_S) + _EVALUATION_S


@dataclass(frozen=True)
class Job:
    """One variant with one seed."""

    study: Study
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return self.study.output / "runs" / self.name

    @cached_property
    def clouds(self) -> list[PointCloud]:
        """The variant's clouds, one for each frame."""
        return [changed_cloud(cloud, self.variant.cloud, self.seed) for cloud in self.study.scene.clouds]

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The configuration keys that differ from the scene's own file, without paths."""
        study, scene = self.study, self.study.scene
        keys = RECOMMENDED_KEYS | dict(self.variant.overrides) | {
            "INPUT.SIZE_TRAIN": study.image_size, "INPUT.SIZE_TEST": study.image_size,
            "SOLVER.MAX_MINUTES": study.minutes, "SOLVER.SEED": self.seed, "SOLVER.MAX_EPOCHS": study.epochs,
            "SOLVER.CHECKPOINT_PERIOD": ENDLESS, "TEST.PERIOD": 0, "MODEL.DEVICE": str(study.device)}
        if self.variant.cloud != CloudChange() or study.image_size != list(scene.cfg.INPUT.SIZE_TRAIN):
            keys["INPUT.NEAR_FAR_SIZE"] = splat_sizes(self.clouds, scene.cameras, study.image_size)
        if any(cloud.colors is None for cloud in scene.clouds):
            keys["INPUT.USE_RGB"] = False
        return keys | {name: key.default for name, key in KEYS.items() if keys["MODEL.FORM"] in key.unread_by}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the result; a run with others is another run."""
        cloud, form = self.variant.cloud, self.keys["MODEL.FORM"]
        read = {name: value for name, value in self.keys.items() if form not in KEYS[name].unread_by}
        return {"scene": self.study.scene.digest, "density": cloud.density, "noise": cloud.noise, **read,
                **({"shifted": self.variant.shifted} if self.variant.shifted else {})}

    @property
    def options(self) -> list[str]:
        """KEY VALUE pairs for tools/train.py."""
        changed = self.variant.cloud != CloudChange()
        paths = {"DATASETS.TRAIN": self.folder / "scene" if changed else self.study.scene.folder,
                 "OUTPUT_DIR": self.folder / "train"}
        if self.study.vgg_file and self.variant.needs_vgg:
            paths["PERCEPTUAL.CHECKPOINT"] = self.study.vgg_file
        pairs = self.keys | {key: path.resolve() for key, path in paths.items()}
        return [str(part) for pair in pairs.items() for part in pair]

    def config(self) -> CfgNode:
        """Load the configuration that tools/train.py gets by `options`."""
        return load_config(self.study.scene.config_file, self.options)


def finished(job: Job) -> dict[str, Any] | None:
    """Return the result of a run, or None where it is not finished.

    Raises `ConfigError` where the run's folder has other settings, finished or not.
    """
    existing = _read(job.folder / "settings.json")
    if existing is None:
        return None
    settings = json.loads(json.dumps(job.settings))
    for key in existing.keys() | settings.keys():
        if existing.get(key) != settings.get(key):
            raise ConfigError(f"{job.folder}: was run with {key} {existing.get(key)}, the study has "
                              f"{settings.get(key)}; give another --output, or --redo to run it again")
    return _read(job.folder / "result.json")


def remove(job: Job) -> None:
    """Delete a run, so that it is run again."""
    shutil.rmtree(job.folder, ignore_errors=True)


def run(job: Job, waiting: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Train a variant, or resume its training, score it, and write the result.

    On Ctrl-C training writes a checkpoint first.

    Args:
        job: variant and seed.
        waiting: called about every second during training.

    Returns:
        The result, as in result.json.

    Raises:
        NpcrError: training failed.
    """
    began, described = time.monotonic(), environment(job.study.device)
    _write(job.folder / "settings.json", job.settings)
    if job.variant.cloud != CloudChange() and not (job.folder / "scene").exists():
        write_scene_copy(job.folder / "scene", job.study.scene, job.clouds)
    cfg = job.config()
    train = job.folder / "train"
    _train(job, ["RESUME", "True"] if _newest(train, resume=True) else [], waiting)
    epoch = find_epoch(train, resume=True)
    state = load_training_state(optimizer_path(train, epoch))
    each = score_held_out(cfg, explicit_keys(job.study.scene.config_file, job.options), model_path(train, epoch),
                          job.study.device, job.study.vgg, job.name, job.folder / "row.png")
    result = {"variant": job.variant.name, "seed": job.seed, **mean_of(each), "steps": state["iteration"],
              "epochs": epoch, "layers": layers_at(cfg, epoch), "all_layers": cfg.INPUT.LAYER_NUM,
              "points": sum(map(len, job.clouds)),
              "seconds_per_step": state["seconds"] / max(1, state["iteration"]),
              "training_seconds": state["seconds"], "wall_seconds": time.monotonic() - began,
              "settings": job.settings, "machine": {key: described[key] for key in _MACHINE}, "each": each}
    _write(job.folder / "result.json", result)
    _tidy(job)
    return result


def _train(job: Job, resume: list[str], waiting: Callable[[], None]) -> None:
    """Run tools/train.py to its end; its output goes to train.log."""
    script = [str(ROOT / "tools" / "train.py")]
    if job.variant.shifted:
        script = [str(ROOT / "benchmarks" / "quality" / "shifted_training.py"), job.variant.shifted]
    command = [sys.executable, *script, "--config-file", str(job.study.scene.config_file), *job.options, *resume]
    log = job.folder / "train.log"
    with log.open("a", encoding="utf-8") as file:
        # In a session of its own, so that Ctrl-C reaches it only through `_stop`.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                                   start_new_session=os.name == "posix", env=os.environ | {"TQDM_MININTERVAL": "10"})
        try:
            while process.poll() is None:
                waiting()
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise NpcrError(f"{job.name}: training failed with status {process.returncode}: "
                        f"{lines[-1] if lines else 'no output'} ({log})")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let training finish its step and write its checkpoint."""
    if os.name == "posix" and process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait()


def _tidy(job: Job) -> None:
    """Delete the scene copy and the models, which have tens of megabytes each."""
    shutil.rmtree(job.folder / "scene", ignore_errors=True)
    if not job.study.keep_models:
        for file in (job.folder / "train").glob("nr_*.pth"):
            file.unlink()


def _newest(folder: Path, *, resume: bool) -> int:
    try:
        return find_epoch(folder, resume=resume)
    except CheckpointError:
        return 0


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        file.write(json.dumps(values, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """Read a JSON file; None where it does not exist."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path}: is damaged ({error}); remove the folder to run it again") from None
    return values
