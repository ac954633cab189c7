# SPDX-License-Identifier: Apache-2.0
"""Pictures that the gradients need, made again from what is kept anyway instead of being kept themselves.

A gated layer keeps its values before norm and ReLU. What comes out of it, also halved or doubled, is a cheap function
of them, so whoever needs such a picture for its gradients saves the values too, which takes no memory, and applies the
norm again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from npcr.ops import native_network as compiled
from npcr.ops.memory import POOL


class Origin(NamedTuple):
    """What a picture is made of: ReLU(scale values + shift), or the values alone, resized to `size`."""

    values: Tensor  # (B, height, width, C)
    scale: Tensor | None  # (B, C)
    shift: Tensor | None
    size: tuple[int, int]  # (H, W): that of the values, half of it, or at least twice it (`compiled.resize`)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the picture."""
        return self.values.shape[0], *self.size, self.values.shape[3]

    @property
    def resized(self) -> bool:
        return self.size != tuple(self.values.shape[1:3])

    def in_size(self) -> Origin:
        """The same picture without resizing left to do."""
        if not self.resized:
            return self
        out = POOL.empty(*self.shape)
        for i in range(len(out)):  # a picture at a time, so that little is held twice
            compiled.resize(self._one(i)._normed(), out[i:i + 1])
        return Origin(out, None, None, self.size)

    def picture(self) -> Tensor:
        """The picture, (B, H, W, C); the values themselves where nothing is to be done."""
        return self.in_size()._normed()

    def _one(self, i: int) -> Origin:
        one = slice(i, i + 1)
        return self._replace(values=self.values[one], scale=None if self.scale is None else self.scale[one],
                             shift=None if self.shift is None else self.shift[one])

    def _normed(self) -> Tensor:
        """The values behind the norm."""
        if self.scale is None or self.shift is None:
            return self.values
        out = POOL.empty(*self.values.shape)
        compiled.normalize(self.values, self.scale, self.shift, out)
        return out


_origins = WeakTensorKeyDictionary()  # an origin lives as long as the tensor that comes of it


def remember(x: Tensor, origin: Origin) -> Tensor:
    """x (B, C, H, W), of which `origin_of` from now on knows where it comes from; nothing where no gradients follow."""
    if x.requires_grad:
        _origins[x] = origin
    return x


def origin_of(x: Tensor) -> Origin:
    """Of x (B, C, H, W): what `remember` was told, else x itself."""
    known: Origin | None = _origins.get(x)
    if known is not None:
        return known
    pictures = channels_inside(x)
    return Origin(pictures, None, None, (pictures.shape[1], pictures.shape[2]))


def save(ctx: Any, own: Sequence[Tensor], origins: Sequence[Origin]) -> None:
    """As `ctx.save_for_backward`, which is thus called."""
    ctx.sizes = [origin.size for origin in origins]
    ctx.save_for_backward(*own, *(tensor for origin in origins for tensor in origin[:3]))


def saved(ctx: Any) -> tuple[list[Tensor], list[Origin]]:
    """What `save` was given."""
    tensors, count = list(ctx.saved_tensors), 3 * len(ctx.sizes)
    own, rest = tensors[:len(tensors) - count], tensors[len(tensors) - count:]
    return own, [Origin(rest[3 * i], rest[3 * i + 1], rest[3 * i + 2], size) for i, size in enumerate(ctx.sizes)]


def channels_inside(x: Tensor) -> Tensor:
    """(B, C, H, W) to contiguous (B, H, W, C); without a copy where x is in channels_last memory."""
    return x.detach().movedim(1, -1).contiguous()
