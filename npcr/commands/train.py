# SPDX-License-Identifier: Apache-2.0
"""Train on a scene: checkpoints, logs and the resolved configuration go to OUTPUT_DIR."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from npcr import cli, distributed
from npcr.training.run_status import RunStatus
from npcr.training.trainer import Trainer

EXAMPLES = """\
  npcr train --config-file configs/Hair.yml DATASETS.TRAIN datasets/Hair
  npcr train
      with your own configs/config.yml
  npcr train --config-file datasets/cat/scene.yml MODEL.DEVICE cpu LOSS.PERCEPTUAL 0
  npcr train --config-file output/config.yml RESUME True
  torchrun --standalone --nproc_per_node 4 --no-python npcr train --config-file datasets/cat/scene.yml \\
      SOLVER.IMS_PER_BATCH 4
      on four GPUs (docs/distributed.md)
  tensorboard --logdir output/log
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    return cli.make_parser("train", __doc__, EXAMPLES).parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Train, and print where the results are."""
    args = parse(arguments)
    cfg, _ = cli.config_from_args(args)
    with distributed.processes(cfg.SOLVER.TIMEOUT), RunStatus(Path(cfg.OUTPUT_DIR)) as status:
        cli.report_unread_keys(cfg)
        trainer = Trainer(cfg, distributed.own_device(cli.resolve_device(cfg.MODEL.DEVICE)))
        status.watch(lambda: {"epochs": trainer.iteration // trainer.steps_per_epoch, "steps": trainer.iteration,
                              "seconds": trainer.seconds})
        trainer.run()
        if distributed.is_writer():
            print(f"checkpoints, config.yml and TensorBoard log: {trainer.output}/")
