# SPDX-License-Identifier: Apache-2.0
"""Feature maps that gradients need, rematerialized from what is kept anyway instead of being kept themselves.

A gated layer keeps its values before norm and ReLU. Its result, also halved or doubled, is a cheap function of them. So
an operation that needs such a result for its gradients saves those values too, which takes no further memory, and
applies the norm again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from npcr.ops import native_network
from npcr.ops.memory import POOL


class Recipe(NamedTuple):
    """What a feature map is rematerialized from: ReLU(scale values + shift), or the values alone, resized to `size`."""

    values: Tensor  # (B, height, width, C)
    scale: Tensor | None  # (B, C)
    shift: Tensor | None
    size: tuple[int, int]  # (H, W): that of the values, half of it, or at least twice it (`native_network.resize`)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the feature map."""
        return self.values.shape[0], *self.size, self.values.shape[3]

    @property
    def resizes(self) -> bool:
        """Whether the feature map has another size than the values."""
        return self.size != tuple(self.values.shape[1:3])

    def in_size(self) -> Recipe:
        """The same feature map, already resized."""
        if not self.resizes:
            return self
        out = POOL.empty(*self.shape)
        for i in range(len(out)):  # an image at a time, so that little is held twice
            native_network.resize(self._image(i)._normalized(), out[i:i + 1])
        return Recipe(out, None, None, self.size)

    def rematerialize(self) -> Tensor:
        """The feature map, (B, H, W, C); the values themselves where nothing is to be done."""
        return self.in_size()._normalized()

    def _image(self, i: int) -> Recipe:
        one = slice(i, i + 1)
        return self._replace(values=self.values[one], scale=None if self.scale is None else self.scale[one],
                             shift=None if self.shift is None else self.shift[one])

    def _normalized(self) -> Tensor:
        if self.scale is None or self.shift is None:
            return self.values
        out = POOL.empty(*self.values.shape)
        native_network.normalize(self.values, self.scale, self.shift, out)
        return out


class FeatureMap(NamedTuple):
    """What blocks give to each other: a tensor with its gradient's graph, and what it can be rematerialized from."""

    tensor: Tensor  # (B, C, H, W) in channels_last memory
    recipe: Recipe

    @classmethod
    def of(cls, tensor: Tensor) -> FeatureMap:
        """The feature map of a tensor (B, C, H, W) that is kept itself."""
        values = channels_last(tensor)
        return cls(tensor, Recipe(values, None, None, (values.shape[1], values.shape[2])))


def channels_last(tensor: Tensor) -> Tensor:
    """Move the channels to the last dimension, detached; without a copy where memory is channels_last already.

    Args:
        tensor: (B, C, H, W).

    Returns:
        (B, H, W, C), contiguous.
    """
    return tensor.detach().movedim(1, -1).contiguous()


def save(ctx: Any, own: Sequence[Tensor], recipes: Sequence[Recipe]) -> None:
    """Save tensors and recipes for the backward pass; calls `ctx.save_for_backward`.

    Args:
        ctx: of an autograd function.
        own: tensors of the function itself.
        recipes: of the feature maps that its gradient needs.
    """
    ctx.sizes = [recipe.size for recipe in recipes]
    ctx.save_for_backward(*own, *(tensor for recipe in recipes for tensor in recipe[:3]))


def saved(ctx: Any) -> tuple[list[Tensor], list[Recipe]]:
    """Return what `save` saved.

    Args:
        ctx: of the same autograd function.

    Returns:
        The tensors and the recipes.
    """
    tensors, count = list(ctx.saved_tensors), 3 * len(ctx.sizes)
    own, rest = tensors[:len(tensors) - count], tensors[len(tensors) - count:]
    return own, [Recipe(rest[3 * i], rest[3 * i + 1], rest[3 * i + 2], size) for i, size in enumerate(ctx.sizes)]
