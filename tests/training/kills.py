# SPDX-License-Identifier: Apache-2.0
"""Kill processes of a training under torchrun at random moments; --max-restarts must lead to the same weights.

    python -m tests.training.kills --moments 10
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from npcr.checkpoints import model_path, whole_epochs
from npcr.config import dump_config
from tests.scenes import write_tiny_scene
from tests.training.processes import train
from tests.training.test_determinism import RANDOM, form_config
from tests.training.test_trainer import same_parameters

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 30


def survives(folder: Path, moments: int, seed: int, limit: float) -> bool:
    """Whether a training that is killed so often gives the weights of one that is not.

    Half of the kills hit the first process. A moment lies up to 2 s after a process has started, or after the first
    checkpoint since then, by the seed's choice.
    """
    scene = write_tiny_scene(folder / "scene", cameras=5, size=(32, 28))
    options = [*RANDOM["strands"], "MODEL.WIDTH", "4", "SOLVER.RELOCATE_EVERY", "3",
               "SOLVER.RELOCATE_BELOW", "0.7", "SOLVER.IMS_PER_BATCH", "2",
               "SOLVER.MAX_EPOCHS", str(EPOCHS), "SOLVER.CHECKPOINT_PERIOD", "1"]
    train(form_config("strands", scene, folder / "whole", *options))
    output = folder / "killed"
    dump_config(form_config("strands", scene, output, *options), folder / "killed.yml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts",
               str(moments), "tools/train.py", "--config-file", str(folder / "killed.yml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agent = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    end = time.monotonic() + limit
    try:
        _kill(agent, output, moments, random.Random(seed), end)
        agent.wait(max(1.0, end - time.monotonic()))
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
    return agent.returncode == 0 and same_parameters(model_path(folder / "whole", EPOCHS), model_path(output, EPOCHS))


def _kill(agent: subprocess.Popen, output: Path, moments: int, rng: random.Random, end: float) -> None:
    seen: set[int] = set()
    for number in range(moments):
        while len(workers := [pid for pid in children(agent.pid) if pid not in seen]) < 2:
            if agent.poll() is not None or time.monotonic() > end:
                return
            time.sleep(0.05)
        seen.update(workers)
        before, wait_for_checkpoint = whole_epochs(output), rng.random() < 0.7
        while wait_for_checkpoint and whole_epochs(output) == before and agent.poll() is None:
            if time.monotonic() > end:
                return
            time.sleep(0.02)
        time.sleep(2 * rng.random())
        ranks = {rank_of(pid): pid for pid in workers}
        if agent.poll() is None and number % 2 in ranks:
            print(f"killing process {number % 2}; epochs with a checkpoint: {len(whole_epochs(output))}", flush=True)
            try:
                os.kill(ranks[number % 2], signal.SIGKILL)
            except ProcessLookupError:
                return  # the training was over before


def children(pid: int) -> list[int]:
    """The processes that a torchrun has started and that run, by their numbers in /proc."""
    try:
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [child for child in children if rank_of(child) is not None]
    except OSError:
        return []


def rank_of(pid: int) -> int | None:
    """Which of a torchrun's processes this is, from 0; None: it is none, or gone."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(pair[5:]) for pair in pairs if pair.startswith(b"RANK=")), None)


def main() -> int:
    """Train, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600.0, metavar="SECONDS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = survives(Path(folder), options.moments, options.seed, options.limit)
    print("the weights are the same" if same else "the training failed, or its weights differ")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
