# SPDX-License-Identifier: Apache-2.0
"""What commands share: command-line options, the configuration and the device they name, and one-line errors."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from yacs.config import CfgNode

from npcr import distributed
from npcr.command_names import as_typed
from npcr.config import explicit_keys, load_config, source_of, unread_keys
from npcr.errors import ConfigError, NpcrError
from npcr.installation import shipped_file
from npcr.numerics import tf32
from npcr.out_of_memory import describe, is_out_of_memory
from npcr.progress import LogHandler

logger = logging.getLogger("npcr")

# Where the published instructions put the configuration, the cameras and the model.
MODELS = Path("models")
CONFIG = Path("configs/config.yml")


def new_parser(name: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """Make the parser of a command.

    Args:
        name: of the command.
        description: what it does: its module's docstring.
        examples: the end of the --help text, with commands as `as_typed` takes them.

    Returns:
        The parser, without any argument.
    """
    return argparse.ArgumentParser(
        prog=as_typed(f"npcr {name}"),
        description=as_typed(description or ""),
        epilog="examples:\n" + as_typed(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def make_parser(name: str, description: str | None, examples: str,
                config_default: Path = CONFIG) -> argparse.ArgumentParser:
    """Make a parser with `--config-file` and `KEY VALUE` pairs at the end of the command line.

    Args:
        name: of the command.
        description: what it does.
        examples: the end of the --help text.
        config_default: the file without `--config-file`.

    Returns:
        The parser; `config_from_args` takes what it parses.
    """
    parser = new_parser(name, description, examples)
    parser.add_argument("--config-file", type=Path, default=config_default, metavar="FILE",
                        help="YAML configuration (default: %(default)s)")
    add_quiet_option(parser)
    add_config_options(parser)
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `KEY VALUE` pairs at the end of the command line.

    Args:
        parser: gets `options`.
    """
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="override configuration keys, such as SOLVER.MAX_EPOCHS 100")


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Add `--quiet`, which takes effect where it is parsed: neither progress nor notes are shown from there on.

    Args:
        parser: of any command; gets `quiet`.
    """
    parser.add_argument("--quiet", action=_Quiet, default=False,
                        help="show neither progress nor notes; warnings, errors and results stay")


def make_path_parser(name: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """Make a parser for commands that render along a camera path.

    Args:
        name: of the command.
        description: what it does.
        examples: the end of the --help text.

    Returns:
        `make_parser`'s, with `cam_pose`, `intrinsics`, `checkpoint` and `frame` (None where they are not given).
    """
    parser = make_parser(name, description, examples, config_default=MODELS / "config.yml")
    parser.add_argument("--cam-pose", type=Path, default=MODELS / "CamPose.inf", metavar="FILE",
                        help="the path's poses (default: %(default)s)")
    parser.add_argument("--intrinsics", type=Path, default=MODELS / "Intrinsic.inf", metavar="FILE",
                        help="intrinsics in pixels of INPUT.SIZE_RAW, one block or one for each pose "
                             "(default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help=f"the model, or a folder with it (default: {MODELS}/nr_model_{{LOAD_EPOCH}}.pth)")
    parser.add_argument("--frame", type=int, metavar="N",
                        help="the frame of the scene (pose of the object) to show (default: 1)")
    return parser


def add_frame_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that read frames: which of them, their rate, and what lies behind them.

    Args:
        parser: gets `start`, `end`, `step` (for `FrameSource.part`), `fps` and `background`.
    """
    parser.add_argument("--start", type=int, default=1, metavar="N", help="the first frame, from 1 (default: 1)")
    parser.add_argument("--end", type=int, metavar="N", help="the last frame (default: the last there is)")
    parser.add_argument("--step", type=int, default=1, metavar="N",
                        help="every Nth frame; the speed stays (default: 1)")
    parser.add_argument("--fps", type=_frame_rate, metavar="X", help="frames a second (default: as the video or the "
                        "rendering's config.yml has it, divided by --step; else 30)")
    parser.add_argument("--background", type=_background, metavar="GRAY",
                        help="behind pictures with alpha: a gray 0-255, or checker (default: the rendering's "
                             "BACKGROUND_GRAY; else 255)")


def config_from_args(args: argparse.Namespace) -> tuple[CfgNode, frozenset[str]]:
    """Load the configuration that a command line names.

    Args:
        args: of `make_parser`'s parser.

    Returns:
        The configuration, and the keys that the file or the command line set.

    Raises:
        ConfigError: the file or a KEY VALUE pair is wrong.
    """
    options = args.options[1:] if args.options[:1] == ["--"] else args.options
    for option in options[::2]:
        if option.startswith("--"):
            raise ConfigError(f"command line: put {option} before the KEY VALUE pairs")
    if not args.config_file.is_file():
        raise ConfigError(f"{args.config_file}: no such configuration file; {_known_configs()}")
    return load_config(args.config_file, options), explicit_keys(args.config_file, options)


def report_unread_keys(cfg: CfgNode) -> None:
    """Say which keys were set although MODEL.FORM does not read them.

    Args:
        cfg: the configuration that a model is trained with.
    """
    unread = unread_keys(cfg)
    if unread:
        logger.info("MODEL.FORM %s does not read %s", cfg.MODEL.FORM,
                    ", ".join(f"{name} ({source_of(cfg, name)})" for name in unread))


def _known_configs() -> str:
    folder = shipped_file(str(CONFIG.parent))
    names = ", ".join(sorted(file.name for file in folder.glob("*.yml")))
    return (as_typed("--config-file names one, such as the scene.yml that npcr import and npcr fuzzy write")
            + (f"; in {os.path.relpath(folder)} are {names}" if names else ""))


def resolve_device(name: str) -> torch.device:
    """Find the device that MODEL.DEVICE names.

    Args:
        name: cuda, cpu or cuda:N.

    Returns:
        The device; the CPU, with a warning, where CUDA is missing or torch was not compiled for the GPU.

    Raises:
        ConfigError: this machine has no GPU of that number.
    """
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %s, but no CUDA device is usable here; using the CPU", name)
        return torch.device("cpu")
    device = torch.device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"MODEL.DEVICE is {name}; this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if not _torch_is_compiled_for(device):
        logger.warning(
            "MODEL.DEVICE is %s, but torch %s was not compiled for %s (compute capability %d.%d; for %s alone); using "
            "the CPU. Install a torch that was, for a V100 by: pip install 'torch<2.11' 'torchvision<0.26' "
            "(docs/versions.md)",
            name, torch.__version__, torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device),
            ", ".join(torch.cuda.get_arch_list()))
        return torch.device("cpu")
    return device


def _torch_is_compiled_for(device: torch.device) -> bool:
    """Machine code runs on GPUs of its major version from its minor version on, PTX on all later ones."""
    compiled = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    has = torch.cuda.get_device_capability(device)
    versions = [(kind, (int(major), int(minor))) for kind, major, minor in compiled]
    return not compiled or any(version <= has and (kind == "compute" or version[0] == has[0])  # none: not CUDA's names
                               for kind, version in versions)


def refuse_processes(name: str) -> None:
    """Refuse torchrun for a command that one process does alone: others would write the same files.

    Args:
        name: of the command.

    Raises:
        NpcrError: torchrun started several processes.
    """
    processes = distributed.launched()
    if processes > 1:
        raise NpcrError(f"{as_typed(f'npcr {name}')} is for one process, and torchrun started {processes}; start it "
                        "without torchrun")


def run(main: Callable[[], None]) -> None:
    """Run a command; a user's error ends in one line and exit status 2, Ctrl-C in status 130.

    float32 is float32 in it, on a GPU too; what a key names as its precision is set where it is used.

    Args:
        main: the command's function.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[LogHandler(sys.stderr)])
    try:
        with tf32(False):
            main()
    except NpcrError as error:
        _fail(f"error: {error}")
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            _fail(f"error: {describe(error)}; fewer or smaller pictures, points and layers need less")
        if not isinstance(error, OSError):
            raise
        # a full disk, a read-only folder, a file where a folder should be
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"error: {place}{error.strerror or error}")
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, status: int = 2) -> NoReturn:
    """End with a message; of several processes only one prints it."""
    if distributed.speaks():
        print(message, file=sys.stderr)
    sys.exit(status)


class _Quiet(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        logging.getLogger("npcr").setLevel(logging.WARNING)
        setattr(namespace, self.dest, True)


def _frame_rate(text: str) -> float:
    rate = float(text)
    if not 0.1 <= rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 1000")
    return rate


def _background(text: str) -> float | str:
    if text == "checker":
        return text
    gray = float(text)
    if not 0 <= gray <= 255:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 255")
    return gray
