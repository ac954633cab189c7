# SPDX-License-Identifier: Apache-2.0
"""Train on a scene: checkpoints, logs and the resolved configuration go to OUTPUT_DIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import npcr.entry_point  # noqa: F401  before torch is loaded

# isort: split
from npcr import cli
from npcr.training.trainer import Trainer

EXAMPLES = """\
  python tools/train.py --config-file configs/Hair.yml DATASETS.TRAIN datasets/Hair
  python tools/train.py                                  with your own configs/config.yml
  python tools/train.py --config-file datasets/cat/scene.yml MODEL.DEVICE cpu LOSS.PERCEPTUAL 0
  python tools/train.py --config-file output/config.yml RESUME True
  tensorboard --logdir output/log
"""


def main() -> None:
    args = cli.make_parser(__doc__, EXAMPLES).parse_args()
    cfg, _ = cli.config_from_args(args)
    cli.report_unread_keys(cfg)
    trainer = Trainer(cfg, cli.resolve_device(cfg.MODEL.DEVICE))
    trainer.run()
    print(f"checkpoints, config.yml and TensorBoard log: {trainer.output}/")


if __name__ == "__main__":
    cli.run(main)
