#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Convert a published checkpoint (a pickled module) to this project's format, running nothing from it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import npcr.entry_point  # noqa: F401  before torch is loaded

# isort: split
from npcr.checkpoints import ModelCheckpoint, read_published, save_model
from npcr.cli import add_quiet_option, run
from npcr.errors import CheckpointError

EXAMPLES = """\
examples:
  python tools/convert_checkpoint.py downloads/nr_model_1499.pth models/nr_model_1499.pth
  python tools/convert_checkpoint.py --norm batch nr_model_1499.pth converted/
      keeps batch norm's running statistics as well, for rendering that does not depend on the picture
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="published nr_model_{epoch}.pth")
    parser.add_argument("destination", type=Path, metavar="DESTINATION",
                        help="file to write, or a folder for it")
    parser.add_argument("--norm", choices=("instance", "batch"), default="instance",
                        help="instance: each picture normalized by itself, as published; "
                             "batch: by the running statistics of training (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace DESTINATION where it exists")
    add_quiet_option(parser)
    args = parser.parse_args(arguments)

    is_folder = args.destination.is_dir()
    destination = args.destination / args.source.name if is_folder else args.destination
    if destination.exists() and destination.samefile(args.source):
        raise CheckpointError(f"{destination}: is the published file itself; name another one to write")
    if destination.exists() and not args.overwrite:
        raise CheckpointError(f"{destination}: exists; --overwrite replaces it")
    checkpoint = read_published(args.source, args.norm)
    save_model(destination, checkpoint)
    print(describe(checkpoint))
    print(f"written: {destination}")


def describe(checkpoint: ModelCheckpoint) -> str:
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


if __name__ == "__main__":
    run(main)
