# SPDX-License-Identifier: Apache-2.0
"""Look at a model in the browser: move around, compare with photographs, set camera paths and film them."""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from npcr import cli
from npcr.checkpoints import choose_model
from npcr.errors import ConfigError, SceneError
from npcr.factory import load_renderer, open_scene, prepare_rendering
from npcr.io.images import read_image
from npcr.renderers import Renderer
from npcr.viewer.app import LOCAL, ViewerApp
from npcr.viewer.film import Film
from npcr.viewer.opening import photographs_of, settings_of
from npcr.viewer.photographs import PhotographedViews
from npcr.viewer.pictures import Engine

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr view --config-file output/config.yml
      the newest checkpoint in OUTPUT_DIR, at http://localhost:8080
  npcr view --config-file models/config.yml --checkpoint models --port 9000 MODEL.DEVICE cpu
  npcr view --config-file output/config.yml --backdrop street.jpg --max-size 600

The server listens on this machine alone. From another one, forward its port and open http://localhost:8080 there:
  ssh -L 8080:localhost:8080 THIS_MACHINE
Saved paths and films go to --output; docs/viewer.md explains the controls. Ctrl-C ends the server.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser("view", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="the model, or a folder with it (default: OUTPUT_DIR/nr_model_{LOAD_EPOCH}.pth)")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="where saved paths and films go (default: OUTPUT_DIR/view)")
    parser.add_argument("--host", default=LOCAL[0], metavar="ADDRESS",
                        help="listen at another address, such as 0.0.0.0; whoever reaches it can look, and write into "
                             "--output (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="where it is taken, the next free one (default: 8080)")
    parser.add_argument("--max-size", type=int, default=1024, metavar="PIXELS",
                        help="of a full frame's longer side at most (default: 1024)")
    parser.add_argument("--backdrop", type=Path, metavar="FILE", help="a picture to show behind the object")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Load the model, serve it, and wait for Ctrl-C."""
    app = build(parse(arguments))
    print(f"{app.address} (Ctrl-C ends it)", flush=True)
    try:
        while True:
            time.sleep(3600)
    finally:
        app.stop()


def build(args: argparse.Namespace) -> ViewerApp:
    """Make the server of a command line.

    Args:
        args: of `parse`.

    Returns:
        The server, which runs.

    Raises:
        NpcrError: the model cannot be loaded, or viser is missing.
    """
    given, explicit = cli.config_from_args(args)
    if not 24 <= args.max_size <= 8192:
        raise ConfigError(f"command line: --max-size is {args.max_size}; it must be from 24 to 8192 pixels")
    checkpoint = choose_model(args.checkpoint, given.OUTPUT_DIR, given.LOAD_EPOCH)
    renderer, cfg, _ = load_renderer(given, checkpoint, cli.resolve_device(given.MODEL.DEVICE), explicit=explicit)
    prepare_rendering(renderer, cfg)
    if args.host not in LOCAL:
        logger.warning("--host %s: whoever reaches this address can use the viewer and write into its --output; ssh -L "
                       "is safer", args.host)
    engine = Engine(renderer, read_image(args.backdrop)[..., :3] if args.backdrop else None)
    views = _photographs(cfg, renderer)
    settings = settings_of(cfg, renderer, views, args.output, args.max_size)
    return ViewerApp(engine, settings, Film(engine, cfg), views, args.host, args.port)


def _photographs(cfg: CfgNode, renderer: Renderer) -> PhotographedViews | None:
    if not cfg.DATASETS.TRAIN:
        logger.info("DATASETS.TRAIN is empty: there are no photographs to compare with")
        return None
    try:
        scene = open_scene(cfg, cfg.DATASETS.TRAIN)
    except (ConfigError, SceneError) as error:
        logger.warning("there are no photographs to compare with: %s", error)
        return None
    return photographs_of(cfg, scene, renderer)
