# SPDX-License-Identifier: Apache-2.0
"""Train on a scene: checkpoints, logs and the resolved configuration go to OUTPUT_DIR."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from npcr import cli, distributed
from npcr.errors import ConfigError
from npcr.extras import import_extra
from npcr.training.run_status import RunStatus
from npcr.training.trainer import Trainer
from npcr.viewer.live import LiveTraining

EXAMPLES = """\
  npcr train --config-file configs/Hair.yml DATASETS.TRAIN datasets/Hair
  npcr train
      with your own configs/config.yml
  npcr train --config-file datasets/cat/scene.yml MODEL.DEVICE cpu LOSS.PERCEPTUAL 0
  npcr train --config-file output/config.yml RESUME True
  torchrun --standalone --nproc_per_node 4 --no-python npcr train --config-file datasets/cat/scene.yml \\
      SOLVER.IMS_PER_BATCH 4
      on four GPUs (docs/distributed.md)
  npcr train --config-file datasets/cat/scene.yml --view MODEL.DEVICE cpu
      watched in the browser at http://localhost:8080, where it can be paused; the weights are the same
  tensorboard --logdir output/log
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser("train", __doc__, EXAMPLES)
    parser.add_argument("--view", action="store_true",
                        help="show the model in training in the browser, on this machine alone (docs/viewer.md)")
    parser.add_argument("--port", type=int, help="of --view; where it is taken, the next free one (default: 8080)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Train, and print where the results are."""
    args = parse(arguments)
    cfg, _ = cli.config_from_args(args)
    if args.port is not None and not args.view:
        raise ConfigError(f"command line: --port {args.port} is read with --view alone")
    if args.view:
        import_extra("viser")  # before what takes time
    with distributed.processes(cfg.SOLVER.TIMEOUT), RunStatus(Path(cfg.OUTPUT_DIR)) as status:
        if args.view and distributed.world_size() > 1:
            raise ConfigError(f"command line: --view shows a training of one process, here are "
                              f"{distributed.world_size()}; leave --view or torchrun out")
        cli.report_unread_keys(cfg)
        trainer = Trainer(cfg, distributed.own_device(cli.resolve_device(cfg.MODEL.DEVICE)))
        status.watch(lambda: {"epochs": trainer.iteration // trainer.steps_per_epoch, "steps": trainer.iteration,
                              "seconds": trainer.seconds})
        if args.view:
            with LiveTraining(trainer, args.port or 8080) as live:
                trainer.run(live.attach)
        else:
            trainer.run()
        if distributed.is_writer():
            print(f"checkpoints, config.yml and TensorBoard log: {trainer.output}/")
