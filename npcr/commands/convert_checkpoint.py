# SPDX-License-Identifier: Apache-2.0
"""Convert a published checkpoint (a pickled module) to this project's format, running nothing from it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from npcr import cli
from npcr.checkpoints import ModelCheckpoint, read_published, save_model
from npcr.errors import CheckpointError

EXAMPLES = """\
  npcr convert downloads/nr_model_1499.pth models/nr_model_1499.pth
  npcr convert --norm batch nr_model_1499.pth converted/
      keeps batch norm's running statistics as well, for rendering that does not depend on the picture
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("convert", __doc__, EXAMPLES)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="published nr_model_{epoch}.pth")
    parser.add_argument("destination", type=Path, metavar="DESTINATION",
                        help="file to write, or a folder for it")
    parser.add_argument("--norm", choices=("instance", "batch"), default="instance",
                        help="instance: each picture normalized by itself, as published; "
                             "batch: by the running statistics of training (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace DESTINATION where it exists")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Read the published checkpoint, write this project's, and print what it holds."""
    args = parse(arguments)
    is_folder = args.destination.is_dir()
    destination = args.destination / args.source.name if is_folder else args.destination
    if destination.exists() and destination.samefile(args.source):
        raise CheckpointError(f"{destination}: is the published file itself; name another one to write")
    if destination.exists() and not args.overwrite:
        raise CheckpointError(f"{destination}: exists; --overwrite replaces it")
    checkpoint = read_published(args.source, args.norm)
    save_model(destination, checkpoint)
    print(_describe(checkpoint))
    print(f"written: {destination}")


def _describe(checkpoint: ModelCheckpoint) -> str:
    """What a published checkpoint was found to hold."""
    points = [str(len(value)) for name, value in checkpoint.model.items() if name.startswith("features.")]
    sizes = {name: value.numel() for name, value in checkpoint.model.items()}
    network = sum(size for name, size in sizes.items() if name.startswith("network."))
    return "\n".join([
        f"epoch:      {checkpoint.epoch}",
        f"points:     {', '.join(points)} (of each frame; their positions come from the scene)",
        f"layers:     {checkpoint.config['INPUT'].get('LAYER_NUM', 'not recorded')}",
        f"parameters: {network:,} in the network, {sum(sizes.values()) - network:,} in the features",
        *(f"{section}.{key}: {value}" for section, keys in checkpoint.config.items()
          for key, value in keys.items()),
    ])
