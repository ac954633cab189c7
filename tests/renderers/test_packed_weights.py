# SPDX-License-Identifier: Apache-2.0
"""Whatever way weights are changed, the next picture on the CPU's kernels is of the changed ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, parametrize, vector_to_parameters
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from npcr.ops import OperatorError, compiled_available
from npcr.renderers.cpu import PackedWeights, block_runner
from npcr.renderers.cpu.rematerialize import FeatureMap
from npcr.renderers.cpu.runner import run_block
from npcr.renderers.gated_blocks import DoubleConv, GatedConv
from npcr.renderers.gated_unet import GatedUNet

pytestmark = pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")

Change = Callable[[DoubleConv], object]


class OnKernels:
    """A block on the kernels, with the weights that they have kept from the pictures before."""

    def __init__(self, block: DoubleConv) -> None:
        self.block, self.packed = block, PackedWeights()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        result = run_block(self.block, [x], self.packed.get)
        assert isinstance(result, FeatureMap)
        return result.tensor


@torch.no_grad()
def in_torch(block: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = block(x)
    return result


def random_block(seed: int = 0) -> DoubleConv:
    torch.manual_seed(seed)
    return DoubleConv(4, 8, "none")


def doubled_state(block: DoubleConv) -> dict[str, Tensor]:
    return {name: value * 2 for name, value in block.state_dict().items()}


def averaged(block: DoubleConv) -> None:
    """A moving average, as torch keeps it."""
    average = AveragedModel(block, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.module = block  # and not its copy
    average.n_averaged.fill_(1)
    average.update_parameters(random_block(1))


def stepped(**settings: bool) -> Change:
    def step(block: DoubleConv) -> None:
        optimizer = torch.optim.Adam(block.parameters(), lr=0.5, **settings)
        block(torch.ones(1, 4, 8, 8)).sum().backward()
        optimizer.step()

    return step


def changed_in_numpy(block: DoubleConv) -> None:
    block.conv1.conv.weight.detach().numpy()[:] *= 2


def changed_in_dlpack(block: DoubleConv) -> None:
    torch.from_dlpack(block.conv1.gate.weight.detach()).neg_().mul_(2)


@torch.no_grad()
def changed_together(block: DoubleConv) -> None:
    torch._foreach_mul_(list(block.parameters()), 2.0)


def replaced_data(block: DoubleConv) -> None:
    block.conv1.conv.weight.data = block.conv1.conv.weight.data * 2


def laid_out_anew(block: DoubleConv) -> None:
    """The same memory, read in another order."""
    block.conv1.conv.weight.data = block.conv1.conv.weight.data.transpose(2, 3)


def replaced_layer(block: DoubleConv) -> None:
    block.conv1 = GatedConv(4, 8)


def replaced_parameter(block: DoubleConv) -> None:
    block.conv2.gate.weight = nn.Parameter(-20 * block.conv2.gate.weight.detach())


def set_storage(block: DoubleConv) -> None:
    with torch.no_grad():
        block.conv1.conv.weight.set_((block.conv1.conv.weight * 2).untyped_storage(), 0, (8, 4, 3, 3), (36, 9, 3, 1))


def copied_storage(block: DoubleConv) -> None:
    block.conv1.conv.weight.untyped_storage().copy_((block.conv1.conv.weight.detach() * 2).untyped_storage())


CHANGES: dict[str, Change] = {
    "data in place": lambda block: block.conv1.conv.weight.data.mul_(3),
    "data of a gate": lambda block: block.conv2.gate.weight.data.mul_(-3),
    "data of a bias": lambda block: block.conv2.conv.bias.data.add_(1),
    "one weight": lambda block: block.conv2.conv.weight.data[7, 7, 2].fill_(5),
    "detached": lambda block: block.conv1.conv.weight.detach().copy_(torch.ones(8, 4, 3, 3)),
    "data replaced": replaced_data,
    "data laid out anew": laid_out_anew,
    "copied without gradients": torch.no_grad()(lambda block: block.conv1.conv.weight.copy_(torch.ones(8, 4, 3, 3))),
    "state loaded": lambda block: block.load_state_dict(doubled_state(block)),
    "state assigned": lambda block: block.load_state_dict(doubled_state(block), assign=True),
    "vector": lambda block: vector_to_parameters(2 * parameters_to_vector(block.parameters()), block.parameters()),
    "moving average": averaged,
    "fused optimizer": stepped(fused=True),
    "foreach optimizer": stepped(foreach=True),
    "optimizer": stepped(foreach=False),
    "numpy": changed_in_numpy,
    "dlpack": changed_in_dlpack,
    "foreach": changed_together,
    "storage set": set_storage,
    "storage copied": copied_storage,
    "layer replaced": replaced_layer,
    "parameter replaced": replaced_parameter,
    "initialized": lambda block: nn.init.kaiming_normal_(block.conv1.conv.weight, a=0.1),
    "weight norm put on": lambda block: weight_norm(block.conv1.conv).parametrizations.weight.original0.data.mul_(2),
    "spectral norm put on": lambda block: spectral_norm(block.conv1.conv).eval(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_weights_are_seen(change: Change) -> None:
    block, x = random_block(), torch.rand(1, 4, 8, 8)
    on_kernels = OnKernels(block)
    before = on_kernels(x)
    torch.testing.assert_close(before, in_torch(block, x), rtol=1e-4, atol=1e-5)
    change(block)
    after = on_kernels(x)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, in_torch(block, x), rtol=1e-4, atol=1e-5)


def test_weights_that_a_parametrization_computes_are_seen() -> None:
    block, x = random_block(), torch.rand(1, 4, 8, 8)
    for conv in (block.conv1.conv, block.conv1.gate, block.conv2.conv):
        weight_norm(conv)
    on_kernels = OnKernels(block)
    for factor in (1.0, 2.0, -1.0, 0.5):
        block.conv1.conv.parametrizations.weight.original0.data.mul_(factor)
        torch.testing.assert_close(on_kernels(x), in_torch(block, x), rtol=1e-4, atol=1e-5)
    parametrize.remove_parametrizations(block.conv1.conv, "weight")
    torch.testing.assert_close(on_kernels(x), in_torch(block, x), rtol=1e-4, atol=1e-5)


def test_weights_that_are_given_to_one_call_alone_are_seen() -> None:
    torch.manual_seed(0)
    network, x = GatedUNet(4, "none").eval(), torch.rand(1, 4, 24, 24)
    others = {name: value * 1.2 for name, value in network.state_dict().items()}
    before = in_torch(network, x)
    with torch.no_grad():
        during = functional_call(network, others, (x,))
    assert torch.equal(in_torch(network, x), before)
    network.load_state_dict(others)
    assert torch.equal(in_torch(network, x), during)
    assert not torch.allclose(during, before)


def test_a_thousand_random_changes_are_seen() -> None:
    block, x = random_block(), torch.rand(1, 4, 6, 6)
    on_kernels, generator = OnKernels(block), torch.Generator().manual_seed(0)

    def random(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator) * 0.2

    def replace(parameter: nn.Parameter) -> None:
        parameter.data = random(parameter)

    ways: list[Callable[[nn.Parameter], object]] = [
        lambda p: p.data.copy_(random(p)), lambda p: p.detach().numpy().__imul__(-1.0), replace,
        lambda p: p.data.view(-1)[0].add_(1), lambda p: None]
    parameters = list(block.parameters())
    for number in range(1000):
        way, which = torch.randint(0, 1 << 30, (2,), generator=generator).tolist()
        ways[way % len(ways)](parameters[which % len(parameters)])
        torch.testing.assert_close(on_kernels(x), in_torch(block, x), rtol=1e-3, atol=1e-4,
                                   msg=lambda text, number=number: f"change {number}: {text}")


def test_unchanged_weights_are_packed_once() -> None:
    block, packed = random_block(), PackedWeights()
    first = packed.get(block.conv1)
    assert packed.get(block.conv1) is first
    block.conv1.conv.weight.data.mul_(1.0)
    assert packed.get(block.conv1) is first
    block.conv1.conv.weight.data.mul_(1.1)
    assert packed.get(block.conv1) is not first


def test_weights_are_compared_once_a_call_not_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    get = PackedWeights.get
    monkeypatch.setattr(PackedWeights, "get", lambda packed, gated: asked.append(gated) or get(packed, gated))
    network = GatedUNet(4, "none").eval()
    in_torch(network, torch.rand(3, 4, 24, 24))
    assert len(asked) == len(set(asked)) == sum(isinstance(module, GatedConv) for module in network.modules())


def test_the_whole_network_sees_changed_weights() -> None:
    torch.manual_seed(0)
    network, x = GatedUNet(4, "batch").eval(), torch.rand(2, 4, 24, 24)
    before = in_torch(network, x)
    for parameter in network.parameters():
        parameter.data.mul_(1.2)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.data.numpy()[:] += 0.1
    after = in_torch(network, x)
    network.backend = "torch"
    expected = in_torch(network, x)
    assert (after - before).abs().max() > 1e-2 * expected.abs().max()
    torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_networks_made_in_inference_mode_run() -> None:
    with torch.inference_mode():
        torch.manual_seed(0)
        network, x = GatedUNet(4, "none").eval(), torch.rand(1, 4, 24, 24)
        found = network(x)
        network.backend = "torch"
        torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["", "enter.norm1", "down1.conv.conv2.gate"])
def test_weights_of_another_type_do_not_reach_the_kernels(part: str) -> None:
    network, x = GatedUNet(4, "batch").eval(), torch.rand(1, 4, 24, 24)
    network.get_submodule(part).double()
    assert block_runner(network, x, None, "auto", network.packed_weights) is None
    with pytest.raises(OperatorError, match=r"GatedUNet: backend 'compiled' takes torch.float32, got torch.float64$"):
        block_runner(network, x, None, "compiled", network.packed_weights)


def test_statistics_of_another_type_do_not_reach_the_kernels() -> None:
    network, x = GatedUNet(4, "batch").eval(), torch.rand(1, 4, 24, 24)
    assert block_runner(network, x, None, "auto", network.packed_weights) is not None
    network.enter.norm1.running_var = network.enter.norm1.running_var.double()
    assert block_runner(network, x, None, "auto", network.packed_weights) is None
