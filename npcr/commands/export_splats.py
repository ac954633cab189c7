# SPDX-License-Identifier: Apache-2.0
"""Write a model of the strands form as splats for other viewers, .ply or .spz, and measure what that costs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from npcr import __version__, cli
from npcr.checkpoints import choose_model
from npcr.errors import ConfigError, SceneError
from npcr.evaluation.views import evaluate_views, mean_scores
from npcr.extras import import_extra
from npcr.factory import View, build_dataset, held_out_views, load_renderer, open_scene
from npcr.io.splat_files import SplatCloud, spz_fraction_bits, write_splats, write_spz
from npcr.renderers import Renderer, StrandsRenderer

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr export --config-file output/config.yml
      the newest checkpoint in OUTPUT_DIR, to OUTPUT_DIR/splats_{epoch}.ply
  npcr export --config-file output/config.yml --checkpoint output/nr_model_99.pth --output cat.ply MODEL.DEVICE cpu
  npcr export --config-file output/config.yml --frame 2 --no-score
      the second frame of the scene, without measuring
  npcr export --config-file output/config.yml --output output/cat.spz
      a quarter of the size or less, with rounded numbers (pip install 'npcr[splats]')

A viewer of splats shows the points alone, without the network that finishes a picture here, and harmonics of degree 3
stand in for the colors that splats share (MODEL.FIELD_NODES). How much worse that is on the held-out photographs is
printed, and written into the comments of a .ply; a .spz has none. A model without both (MODEL.NETWORK False
MODEL.FIELD_NODES 0) loses nothing. A .ply is a point cloud with colors as well, which a scene may start from.
"""


class Loss(NamedTuple):
    """What a file of splats leaves out, and what that costs."""

    finished: float  # PSNR of the model, dB
    alone: float  # PSNR of what is written, dB
    without: str  # what is left out
    views: str  # which photographs

    def __str__(self) -> str:
        return (f"PSNR {self.alone:.2f} dB without {self.without}, {self.finished:.2f} dB with it "
                f"({self.alone - self.finished:+.2f} dB), {self.views}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser("export", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="the model, or a folder with it (default: OUTPUT_DIR/nr_model_{LOAD_EPOCH}.pth)")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="the .ply or .spz to write (default: OUTPUT_DIR/splats_{epoch}.ply)")
    parser.add_argument("--frame", type=int, default=1, metavar="N",
                        help="the frame of the scene (pose of the object) to write (default: 1)")
    parser.add_argument("--no-score", action="store_true",
                        help="do not render the photographed views to measure the loss")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, write the file, and print what it holds and lacks."""
    args = parse(arguments)
    given, explicit = cli.config_from_args(args)
    checkpoint = choose_model(args.checkpoint, given.OUTPUT_DIR, given.LOAD_EPOCH)
    renderer, cfg, epoch = load_renderer(given, checkpoint, cli.resolve_device(given.MODEL.DEVICE), explicit=explicit)
    if not isinstance(renderer, StrandsRenderer):
        raise ConfigError(f"{checkpoint}: is of MODEL.FORM {cfg.MODEL.FORM}; only the strands form is made of "
                          "Gaussians")
    if not 1 <= args.frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {args.frame}; {checkpoint} has frames 1 to {renderer.frames}")
    output = args.output or Path(cfg.OUTPUT_DIR) / f"splats_{epoch}.ply"
    if output.suffix.lower() not in (".ply", ".spz"):
        raise ConfigError(f"command line: --output is {output}; its suffix must be .ply or .spz")
    if output.suffix.lower() == ".spz":
        import_extra("gsply")  # before what takes time
    splats = renderer.with_harmonics_alone()
    if splats is renderer and not renderer.has_network:
        loss = "the model has no network: the splats are all of it"
    elif args.no_score:
        loss = "the loss was not measured (--no-score)"
    else:
        loss = measure_loss(renderer, splats, cfg)
    cloud, left_out = make_splats(splats, args.frame - 1)
    if left_out:
        logger.warning("%d of %d splats have numbers that are not finite and are left out, as in rendering", left_out,
                       left_out + len(cloud.means))
    if output.suffix.lower() == ".spz":
        _write_spz(output, cloud)
    else:
        write_splats(output, cloud, [f"NPCR {__version__}, strands form, epoch {epoch}, frame {args.frame}", loss,
                                     "made for the filter of Mip-Splatting: where a viewer has it, choose antialiased"])
    print(f"{len(cloud.means)} splats: {output}\nloss:    {loss}")


def _write_spz(output: Path, cloud: SplatCloud) -> None:
    for what, count in write_spz(output, cloud).items():
        if count:
            logger.warning("%s: %d of %d splats have a %s beyond what a .spz holds; the nearest that it holds is "
                           "written", output, count, len(cloud.means), what)
    print(f"a .spz holds no comment, and rounds: positions to {0.5 ** (spz_fraction_bits(cloud.means) + 1):.1g} world "
          "units, sizes to 3 %, opacities to 1/510; what that costs is not in the loss below")


def measure_loss(renderer: StrandsRenderer, splats: StrandsRenderer, cfg: CfgNode) -> str:
    """Score the photographed views of a model and of its splats alone.

    Args:
        renderer: the model.
        splats: the same without shared colors (`StrandsRenderer.with_harmonics_alone`).
        cfg: the model's configuration, whose scene has the photographs.

    Returns:
        The scores in a line, or why there are none.
    """
    try:
        scene = open_scene(cfg, cfg.DATASETS.TRAIN)
        held_out = held_out_views(cfg, scene, renderer.device)
    except (ConfigError, SceneError) as error:
        logger.warning("the loss is not measured: %s", error)
        return "the loss was not measured: no photographs"
    if held_out is None:
        logger.warning("no view is held out: the loss is measured on training views, which flatters the network")
        views = build_dataset(cfg, scene, cfg.INPUT.SIZE_TEST, renderer.device)
        which: list[View] = [(frame, camera) for frame in range(len(scene.frames))
                             for camera in range(len(scene.cameras))]
        kind = "training views"
    else:
        views, which = held_out
        kind = "held-out views"

    def score(model: Renderer) -> float:
        return mean_scores(evaluate_views(model, views, which, batch=cfg.TEST.IMS_PER_BATCH,
                                          device=renderer.device))["psnr"]

    finished = score(renderer)
    with splats.points_alone():
        alone = score(splats)
    left_out = ["the network"] * renderer.has_network + ["the sharpness of shared colors"] * (splats is not renderer)
    return str(Loss(finished, alone, " and ".join(left_out), f"{len(which)} {kind}"))


@torch.no_grad()
def make_splats(renderer: StrandsRenderer, frame: int) -> tuple[SplatCloud, int]:
    """Take a frame's splats out of a model.

    Args:
        renderer: the model, without shared colors.
        frame: from 0.

    Returns:
        The splats whose numbers are all finite, and how many others there are.
    """
    means, strands, widths, _ = renderer.gaussians(frame)
    shades = [renderer.shades[frame]] if renderer.degree else []
    parts = (means, strands, widths, renderer.opacity[frame][:, 0], torch.cat([renderer.colors[frame], *shades], dim=1))
    whole = torch.stack([part.flatten(1).isfinite().all(1) if part.ndim > 1 else part.isfinite()
                         for part in parts]).all(0)
    return SplatCloud(*(part[whole].cpu().numpy() for part in parts)), int((~whole).sum())
