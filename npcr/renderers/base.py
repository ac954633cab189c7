# SPDX-License-Identifier: Apache-2.0
"""The contract of a renderer: what it is made from, what it gives, how it is optimized and saved.

A form of the renderer is one class that subclasses `Renderer`, and one line in `npcr.renderers.FORMS`.
docs/extending.md goes through a whole example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.errors import CheckpointError
from npcr.io.points import PointCloud
from npcr.renderers.acceleration import NetworkRunner
from npcr.renderers.patches import Patch, RegionalNetwork
from npcr.renderers.population import Dropping, Relocation
from npcr.renderers.receptive_field import PixelRegion

# For an optimizer: `params`, `factor` of the learning rate, `weight_decay`, perhaps `eps` and `fused`.
ParamGroup = dict[str, Any]


class RenderOutput(NamedTuple):
    """What one call renders for B cameras with K layers."""

    color: Tensor  # (B, 3, H, W) premultiplied by alpha; not clamped
    alpha: Tensor  # (B, 1, H, W), not clamped
    depth: Tensor  # (B, H, W) camera-space z of the first layer, 0 where empty
    layer_rgba: Tensor  # (B, K, 4, H, W) of each layer before compositing
    layer_depth: Tensor  # (B, K, H, W)
    # (B, K, H, W) visible points, -1 where empty; None of a form that has no visible point for each layer.
    index: Tensor | None = None  # type: ignore[assignment]
    # (B, 3, H, W) the color sum that published models are trained on, which is not premultiplied; None elsewhere.
    legacy_color: Tensor | None = None

    @property
    def trained_color(self) -> Tensor:
        """(B, 3, H, W): the color that training compares with the photograph: `legacy_color` where there is one."""
        return self.color if self.legacy_color is None else self.legacy_color


# Renders the pixels (h, w) of a region of one picture.
Painter = Callable[[PixelRegion], RenderOutput]


class Photographs(NamedTuple):
    """Training photographs of one frame, from which a renderer may initialize its points."""

    cameras: Cameras  # B, on the CPU
    rgba: list[Tensor]  # B of (4, H, W) float32 in [0, 1], premultiplied, on the CPU


class Renderer(nn.Module, ABC):
    """A point cloud per frame with learned numbers per point, and a network, rendered from any camera.

    A subclass calls this `__init__`, then makes its parameters and at last `self.network`. Point clouds are no part of
    the state dict: they are data, and checkpoints keep them beside it.

    Args:
        clouds: (N, 3) world coordinates, a tensor for each frame.
        layers: depth-peeled layers K, at least 1; training may change the attribute (SOLVER.LAYER_SCHEDULE).
    """

    shows_points_alone: bool = False  # whether the form has a picture without its network: see `points_alone`
    finishing: bool = True  # whether the network is to finish the picture; `points_alone` changes it
    tile: int = 0  # side of a tile, pixels, in which larger pictures are rendered (`npcr.renderers.tiles`); 0: none
    legacy: bool = False  # True: renders as the published implementation does, and gives `legacy_color`
    network: nn.Module  # the image network, to be run through `run_network`

    def __init__(self, clouds: Sequence[Tensor], layers: int) -> None:
        super().__init__()
        self.frames = len(clouds)
        self.layers = layers
        self.runner = NetworkRunner()
        for frame, cloud in enumerate(clouds):
            self.register_buffer(f"points_{frame}", cloud.float().contiguous(), persistent=False)

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, clouds: Sequence[PointCloud]) -> Renderer:
        """Make a renderer with fresh parameters.

        Beside `param_groups`, which is given the SOLVER section, nothing else of a renderer reads the configuration.

        Raises:
            NpcrError: the clouds lack what the configuration asks for.
        """

    @abstractmethod
    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        """Render `cameras` (B, on the renderer's device), all of them of the cloud of `frame` (from 0)."""

    @abstractmethod
    def param_groups(self, rates: CfgNode) -> list[ParamGroup]:
        """Every parameter in exactly one group, with its learning rate relative to SOLVER.BASE_LR.

        Args:
            rates: the configuration's SOLVER section.

        Returns:
            Groups with `params`, `factor`, `weight_decay`, perhaps Adam's `eps`; `fused` True where torch's fused step
            is safe: it reads a parameter and its gradient in the order in which they lie in memory, which must be the
            same, and a channels_last network does not promise that.
        """

    def points(self, frame: int) -> Tensor:
        """(N, 3) float32 world coordinates of a frame's cloud."""
        return self.get_buffer(f"points_{frame}")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def run_network(self, images: Tensor, region: PixelRegion | None = None) -> Tensor:
        """`self.network(images)`, as `npcr.renderers.acceleration` was told to run it."""
        return self.runner(self.network, images, region)

    def input_region(self, wanted: PixelRegion) -> PixelRegion:
        """Return the pixels that the network, where there is one, reads for a region of the picture."""
        return self.network.input_region(wanted) if isinstance(self.network, RegionalNetwork) else wanted

    def run_network_within(self, images: Tensor, seen: PixelRegion, wanted: PixelRegion) -> Tensor:
        """Run the network for a region of its result.

        Args:
            images: (L, C, h, w), the pixels of `seen`.
            seen: `input_region(wanted)`, or more.
            wanted: the region.

        Returns:
            (L, C', h', w'), the pixels of `wanted`.
        """
        return self.runner.run_within(self.network, Patch(images, seen), wanted)

    def painter(self, camera: Cameras, frame: int = 0) -> Painter:
        """Project the points for a picture that is then rendered region by region, without gradients.

        Args:
            camera: a batch of one, on the renderer's device.
            frame: from 0.

        Returns:
            A function of a region of the picture that renders its pixels: to rounding those of `forward`.

        Raises:
            NotImplementedError: `why_no_tiles` gives a reason.
        """
        raise NotImplementedError(self.why_no_tiles())

    def why_no_tiles(self) -> str:
        """Return why `painter` cannot serve, a clause; empty where it can."""
        return f"{type(self).__name__} renders whole pictures alone"

    @contextmanager
    def as_path_frames(self) -> Iterator[None]:
        """Render pictures within the context as frames of a camera path, where a form has a steadier way for these.

        Yields:
            Nothing.
        """
        yield

    @contextmanager
    def points_alone(self) -> Iterator[None]:
        """Leave the network out within the context, so that the picture is what the points themselves show.

        Yields:
            Nothing.

        Raises:
            ValueError: the form has no picture without its network.
        """
        if not self.shows_points_alone:
            raise ValueError(f"{type(self).__name__} has no picture without its network")
        self.finishing = False
        try:
            yield
        finally:
            self.finishing = True

    def hold_for_refining(self) -> None:
        """Exclude from training what refining leaves as it is; the default is nothing."""

    def initialize_from(self, clouds: Sequence[PointCloud],
                        photographs: Callable[[int], Photographs]) -> list[PointCloud]:
        """Initialize the points before training from what photographs show; the default is to do nothing.

        Args:
            clouds: those the renderer was made from.
            photographs: gives training photographs of a frame (from 0); they are decoded when it is called.

        Returns:
            The clouds, completed where photographs told more (colors); checkpoints keep these.
        """
        del photographs
        return list(clouds)

    @classmethod
    def check_state(cls, state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str) -> None:
        """Refuse a checkpoint's state dict that contradicts its clouds; the default is to accept.

        Args:
            state: the state dict.
            clouds: (N, 3), a tensor for each frame; empty where the checkpoint holds none.
            source: what the message begins with.

        Raises:
            CheckpointError: a parameter is missing or has the wrong shape.
        """

    @classmethod
    def fingerprint(cls, state: Mapping[str, Tensor]) -> list[float]:
        """A few numbers of a state dict by which another trained model is told apart."""
        return [float(state[name].double().mean()) for name in sorted(state) if state[name].is_floating_point()]


class SplatRenderer(Renderer):
    """A renderer of points that training may leave out for a step, move to where they are needed, and remove."""

    dropping: Dropping | None = None  # what a step leaves out while `training`; None: nothing

    @abstractmethod
    def relocate(self, optimizer: torch.optim.Optimizer, relocation: Relocation) -> int:
        """Move points of no use to where they are needed, and give the optimizer a state for them.

        Args:
            optimizer: of these parameters.
            relocation: which points, and where to.

        Returns:
            How many moved, of all frames.
        """

    @abstractmethod
    def share_gradients(self, side: float, seeds: Sequence[int]) -> None:
        """Let neighbors learn together how their color changes with direction (`population.share_gradients`).

        Args:
            side: of the cells, in spacings of the cloud, above 0.
            seeds: from which the place of their grid follows.
        """

    @abstractmethod
    def smooth_colors(self, optimizer: torch.optim.Optimizer, decay: float, seeds: Sequence[int]) -> None:
        """Bring the colors of points nearer to their neighbors' (`population.smooth_colors`).

        Args:
            optimizer: of these parameters.
            decay: times the learning rate of colors is the share of the difference that goes.
            seeds: from which it follows who is a neighbor.
        """

    @abstractmethod
    def regularizers(self, frame: int) -> dict[str, Tensor]:
        """Compute what the loss may keep small.

        Args:
            frame: from 0.

        Returns:
            Scalars with gradients: "opacity", the points' mean opacity; "size", the mean of their standard deviations
            across and along, in spacings of the cloud.
        """

    @abstractmethod
    def coverage(self, cameras: Cameras, frame: int) -> Tensor:
        """Measure how much each point contributes to images.

        Args:
            cameras: B, on the renderer's device.
            frame: from 0.

        Returns:
            (N,) the pixels that it covers itself, what lies before it not counted, summed over the images.
        """

    @abstractmethod
    def keep(self, optimizer: torch.optim.Optimizer, frame: int, rows: Tensor) -> NDArray[np.float32]:
        """Remove the other points of a frame; pictures stay as they are but for those.

        Args:
            optimizer: of these parameters.
            frame: from 0.
            rows: (R,) of the points to keep, on the renderer's device.

        Returns:
            (R, 3) world coordinates of the frame's cloud from now on: the points where training has moved them.
        """


def network_groups(network: nn.Module, rates: CfgNode) -> list[ParamGroup]:
    """Two groups of a network's parameters: biases learn at a rate and decay of their own.

    Args:
        network: a network of any kind.
        rates: the configuration's SOLVER section.

    Returns:
        The weights' group and the biases' group.
    """
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            (biases if name == "bias" else weights).append(parameter)
    return [{"params": weights, "factor": 1.0, "weight_decay": rates.WEIGHT_DECAY},
            {"params": biases, "factor": rates.BIAS_LR_FACTOR, "weight_decay": rates.WEIGHT_DECAY_BIAS}]


def check_feature_rows(state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str) -> None:
    """Check `default_feature` (C,) and, for each cloud of N points, `features.FRAME` (N, C).

    Args:
        state: a state dict.
        clouds: (N, 3), a tensor for each frame.
        source: what the message begins with.

    Raises:
        CheckpointError: one of them is missing or has another shape.
    """
    default = state.get("default_feature")
    if default is None or default.ndim != 1:
        raise CheckpointError(f"{source}: the model has no weight default_feature of shape (C,)")
    channels = default.shape[0]
    for frame, cloud in enumerate(clouds):
        features = state.get(f"features.{frame}")
        if features is None or tuple(features.shape) != (len(cloud), channels):
            found = "missing" if features is None else describe_shape(features)
            raise CheckpointError(f"{source}: the weight features.{frame} is {found}; the frame's points "
                                  f"need ({len(cloud)}, {channels})")


def check_point_rows(state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str, name: str) -> None:
    """Check that for each cloud of N points the weight `NAME.FRAME` has N rows.

    Args:
        state: a state dict.
        clouds: (N, 3), a tensor for each frame.
        source: what the message begins with.
        name: of the weight.

    Raises:
        CheckpointError: one of them is missing or has another number of rows.
    """
    for frame, cloud in enumerate(clouds):
        weight = state.get(f"{name}.{frame}")
        if weight is None or weight.ndim == 0 or len(weight) != len(cloud):
            found = "missing" if weight is None else describe_shape(weight)
            raise CheckpointError(f"{source}: the weight {name}.{frame} is {found}; the frame's points need "
                                  f"{len(cloud)} rows")


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images as a batch; a single one is not copied.

    Args:
        images: at least one; all of one shape.

    Returns:
        (B, ...).
    """
    return images[0][None] if len(images) == 1 else torch.stack(list(images))


def unit_colors(clouds: Sequence[PointCloud]) -> list[Tensor]:
    """Colors of clouds as numbers from 0 to 1.

    Args:
        clouds: each with colors, (N, 3) uint8.

    Returns:
        (N, 3) float32 in [0, 1], a tensor for each cloud.
    """
    return [torch.from_numpy(np.asarray(cloud.colors, np.float32) / 255) for cloud in clouds]


def describe_shape(tensor: Tensor) -> str:
    """Shape and dtype for a message.

    Args:
        tensor: any.

    Returns:
        Text such as "(5, 3) float32".
    """
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
