# SPDX-License-Identifier: Apache-2.0
"""Check a scene before training: measurements, mistakes by name with the likely fix, images.

Exit status: 0 nothing wrong was found, 1 problems were found, 2 the scene cannot be read.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from npcr import cli
from npcr.config import load_config
from npcr.data.scene_config import FILE_NAME
from npcr.errors import SceneError
from npcr.factory import scene_folder
from npcr.progress import Progress, titled
from npcr.scene_check.check import check_scene
from npcr.scene_check.report import format_report, write_images
from npcr.scene_check.scene_data import load_scene_data

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr check datasets/cat
      with datasets/cat/scene.yml, where there is one; pictures go to datasets/cat/check
  npcr check configs/Hair.yml --views 12 --output /somewhere/else
  npcr check datasets/cat --json --no-pictures > report.json

docs/checking-a-scene.md explains every line, every name, and what the pictures should look like.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("check", __doc__, EXAMPLES)
    parser.add_argument("scene", type=Path, help="folder of the scene, or a YAML configuration that names it")
    parser.add_argument("--frame", type=int, default=1, metavar="N", help="frame of the scene, from 1 (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True,
                        help="draw the cloud over photographs, and cameras around the cloud (default: yes)")
    parser.add_argument("--views", type=int, default=8, metavar="N", help="photographs to draw over (default: 8)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the pictures (default: SCENE/check)")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Check, print, draw; exit with 1 where there are problems."""
    args = parse(arguments)
    if args.views < 1:
        raise SceneError(f"--views is {args.views}; it must be at least 1")
    folder, cfg = _scene(args.scene)
    data = load_scene_data(folder, frame=args.frame, mask=cfg.DATASETS.MASK if cfg else None,
                           progress=_progress_bar("reading", "photograph"))
    values = {} if cfg is None else {"size_raw": cfg.INPUT.SIZE_RAW, "near_far_size": cfg.INPUT.NEAR_FAR_SIZE,
                                     "size_test": cfg.INPUT.SIZE_TEST}
    report = check_scene(data, progress=_progress_bar("checking", "try"), **values)
    images = write_images(args.output or folder / "check", data, args.views,
                          progress=_progress_bar("pictures", "picture")) if args.pictures else []
    if args.json:
        print(json.dumps({**dataclasses.asdict(report), "pictures": [str(p) for p in images]}, indent=1,
                         allow_nan=False))
    else:
        print(format_report(report, images))
    if report.problems:
        sys.exit(1)


def _scene(path: Path) -> tuple[Path, CfgNode | None]:
    """The scene's folder, and the configuration where there is one."""
    if path.is_dir():
        file = path / FILE_NAME
        if not file.is_file():
            logger.info("%s: no such file; sizes, near and far, and whether mattes are wanted, are not checked", file)
            return path, None
        cfg = load_config(file)
        if cfg.DATASETS.TRAIN and Path(cfg.DATASETS.TRAIN).resolve() != path.resolve():
            logger.warning("%s: DATASETS.TRAIN is %s, which training uses; checked is %s", file,
                           cfg.DATASETS.TRAIN, path)
        return path, cfg
    if path.suffix.lower() not in (".yml", ".yaml"):
        raise SceneError(f"{path}: is neither a scene's folder nor a YAML configuration")
    cfg = load_config(path)
    return scene_folder(cfg), cfg


def _progress_bar(name: str, unit: str) -> Progress:
    return titled(name, unit=unit, delay=1, leave=False)
