# SPDX-License-Identifier: Apache-2.0
"""Refine a trained model on a camera path, so that it renders that path more steadily."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from npcr import cli
from npcr.config import dump_config
from npcr.engine.build import build_vgg
from npcr.engine.checkpoint import load_model, model_path, save_model
from npcr.engine.optimizers import build_optimizer
from npcr.engine.path_inputs import PathInputs, load_path_inputs, make_path_parser
from npcr.engine.refiner import PathRefiner, RefineLoss, RefineSettings, mean_loss
from npcr.errors import ConfigError

EXAMPLES = """\
  python tools/refine.py
      with models/config.yml, models/CamPose.inf, models/Intrinsic.inf and models/nr_model_{LOAD_EPOCH}.pth
  python tools/render.py --checkpoint models/nr_model_0_refined.pth
      the path with the refined model
  python tools/refine.py --config-file output/config.yml --checkpoint output/nr_model_99.pth REFINE.PASSES 20
  python tools/refine.py LOSS.PERCEPTUAL 0 MODEL.DEVICE cpu
      without VGG-19, on the CPU

results:
  nr_model_{epoch}_refined.pth  beside the model, which stays as it is
  nr_model_{epoch}_refined.yml  the configuration as used
  OUTPUT_DIR/refine_{epoch}/    the loss of each pass, for TensorBoard
"""


def main() -> None:
    parser = make_path_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--overwrite", action="store_true", help="replace the result of an earlier refining")
    args = parser.parse_args()
    inputs = load_path_inputs(args)
    destination = refined_path(inputs, args.overwrite)
    log = Path(inputs.cfg.OUTPUT_DIR) / f"refine_{inputs.epoch}"
    refiner = make_refiner(inputs)
    done = 0
    try:
        for loss in walk(refiner, inputs.cfg.REFINE.PASSES, log):
            done += 1
            tqdm.write(f"pass {done}: loss {loss.total:.6f} "
                       f"(features {loss.feature:.6f}, mse {loss.mse:.6f})")
    except KeyboardInterrupt:
        if done:
            save(inputs, destination)
            print(f"{done} of {inputs.cfg.REFINE.PASSES} passes: {destination}")
        raise
    save(inputs, destination)
    print(f"refined model: {destination}; losses for TensorBoard: {log}/")


def refined_path(inputs: PathInputs, overwrite: bool) -> Path:
    """Where the result goes; checked before the work begins."""
    destination = model_path(inputs.checkpoint.parent, inputs.epoch, refined=True)
    if destination.resolve() == inputs.checkpoint.resolve():
        raise ConfigError(f"{destination}: would overwrite itself; copy it to another folder first")
    if destination.exists() and not overwrite:
        raise ConfigError(f"{destination}: exists already; --overwrite replaces it")
    return destination


def make_refiner(inputs: PathInputs) -> PathRefiner:
    cfg = inputs.cfg
    vgg = build_vgg(cfg)
    if vgg is not None:
        vgg.to(next(inputs.renderer.parameters()).device)
    a, b, c, d = cfg.WEIGHTS.REFINE_WEIGHTS
    settings = RefineSettings((a, b, c, d), cfg.WEIGHTS.COLOR_THR, cfg.TEMPORAL.DEPTH_TOLERANCE,
                              cfg.LOSS.PERCEPTUAL, cfg.LOSS.MSE)
    optimizer = build_optimizer(cfg, inputs.renderer, lr=cfg.REFINE.LR or cfg.SOLVER.BASE_LR)
    return PathRefiner(inputs.renderer, inputs.cameras, optimizer, vgg, settings, inputs.frame)


def walk(refiner: PathRefiner, passes: int, log: Path) -> Iterator[RefineLoss]:
    """Run the passes, with a progress bar and TensorBoard scalars; yields each pass's mean loss."""
    frames = passes * (len(refiner.cameras) - 1)
    with SummaryWriter(str(log)) as board, tqdm(total=frames, desc="refine", unit="frame") as bar:
        for number in range(1, passes + 1):
            losses = []
            for loss in refiner.run_pass(number):
                losses.append(loss)
                bar.set_postfix_str(f"pass {number}, loss {loss.total:.4g}", refresh=False)
                bar.update()
            mean = mean_loss(losses)
            for name, value in mean._asdict().items():
                board.add_scalar(f"refine/{name}", value, number)
            yield mean


def save(inputs: PathInputs, destination: Path) -> None:
    state = {name: value.detach().cpu() for name, value in inputs.renderer.state_dict().items()}
    save_model(destination, replace(load_model(inputs.checkpoint), model=state))
    dump_config(inputs.cfg, destination.with_suffix(".yml"))


if __name__ == "__main__":
    cli.run(main)
