# SPDX-License-Identifier: Apache-2.0
"""What every script shares: `--config-file` and KEY VALUE pairs, the device, and one-line errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from yacs.config import CfgNode

from npcr.config import load_config
from npcr.errors import ConfigError, NpcrError

logger = logging.getLogger("npcr")


def make_parser(description: str, examples: str, config_default: str | None = None) -> argparse.ArgumentParser:
    """A parser with `--config-file` and trailing `KEY VALUE` pairs; `examples` ends the --help text."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", type=Path, default=config_default and Path(config_default),
                        required=config_default is None, metavar="FILE",
                        help="YAML configuration" + (f" (default: {config_default})" if config_default else ""))
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="override configuration keys, such as SOLVER.MAX_EPOCHS 100")
    return parser


def config_from_args(args: argparse.Namespace) -> CfgNode:
    """The configuration that `make_parser`'s arguments name."""
    options = args.options[1:] if args.options[:1] == ["--"] else args.options
    for option in options[::2]:
        if option.startswith("--"):
            raise ConfigError(f"command line: put {option} before the KEY VALUE pairs")
    return load_config(args.config_file, options)


def resolve_device(name: str) -> torch.device:
    """The torch device for `MODEL.DEVICE`; where CUDA is missing the CPU serves, with one notice."""
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no CUDA device is usable here; using the CPU", name)
        return torch.device("cpu")
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"MODEL.DEVICE is {name}; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a user's error ends in one line and status 2, Ctrl-C in status 130."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except NpcrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a read-only folder, a file where a folder should be
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
