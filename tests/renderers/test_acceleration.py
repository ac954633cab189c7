# SPDX-License-Identifier: Apache-2.0
"""torch.compile, reduced precision and CUDA graphs around both networks."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from yacs.config import CfgNode

from npcr import numerics
from npcr.config import changed, default_config
from npcr.factory import build_renderer, prepare_rendering
from npcr.io.points import PointCloud
from npcr.renderers import Renderer
from npcr.renderers.acceleration import NetworkRunner
from npcr.renderers.cuda_graphs import Captured, GraphReplay
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.half_activations import half_activations
from npcr.renderers.receptive_field import PixelRegion
from npcr.renderers.residual_unet import ResidualUNet
from tests.scenes import orbit_cameras

SIZE = (32, 24)
FORMS = ["layered", "blended"]
TRACED_FORMS = [pytest.param("layered", marks=pytest.mark.slow), "blended"]  # 13 million parameters take long to trace
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None,
                                    reason="torch.compile needs a C++ compiler")


def config(form: str, **values: Any) -> CfgNode:
    return changed(default_config(), MODEL__FORM=form, MODEL__FEATURE_DIM=4, MODEL__WIDTH=4, INPUT__LAYER_NUM=2,
                   INPUT__SIZE_TEST=list(SIZE), INPUT__NEAR_FAR_SIZE=[2.0, 8.0, 1.5], **values)


def make(cfg: CfgNode) -> Renderer:
    """A renderer whose network adds something: fresh ones of the blended form add nothing."""
    points = torch.randn(150, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    renderer = build_renderer(cfg, [PointCloud(points.numpy(), None)])
    if isinstance(renderer.network, ResidualUNet):
        nn.init.normal_(renderer.network.out.weight, std=0.1)
    return renderer.eval()


def network(form: str, backend: str = "auto") -> GatedUNet | ResidualUNet:
    return make(config(form, PROJECTION__BACKEND=backend)).network


def picture(of: GatedUNet | ResidualUNet, count: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, of.in_channels, SIZE[1], SIZE[0], generator=generator)


# torch.compile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_compiling_leaves_the_names_in_checkpoints_alone(form: str) -> None:
    plain, compiled = make(config(form)), make(config(form, MODEL__COMPILE=True))
    assert compiled.runner.compiled is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.mark.parametrize("form", TRACED_FORMS)
def test_compiled_as_one_graph_for_all_frames(form: str) -> None:
    """Regions move from frame to frame; that must not compile anew."""
    net, run = network(form, "torch"), NetworkRunner()
    regions: list[Any] = [()] * 3
    if form == "layered":
        regions[1:] = [(PixelRegion(3, 2, 20, 18, SIZE[::-1]),), (PixelRegion(0, 5, 32, 24, SIZE[::-1]),)]
    with torch.no_grad():
        wanted = [net(picture(net, seed=i), *region) for i, region in enumerate(regions)]
    counter = CompileCounter()
    run.compile(net, backend=counter)
    with torch.no_grad():
        found = [run(net, picture(net, seed=i), *region) for i, region in enumerate(regions)]
    assert counter.frame_count == 1
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_size_that_changes_is_compiled_twice_only() -> None:
    net, run = network("blended"), NetworkRunner()
    counter = CompileCounter()
    run.compile(net, backend=counter)
    with torch.no_grad():
        for width in (32, 40, 48, 56, 64):
            assert run(net, torch.rand(1, net.in_channels, 24, width)).shape == (1, 4, 24, width)
    assert counter.frame_count == 2


@pytest.mark.slow
@needs_compiler
def test_compiled_to_machine_code_equals_plain(caplog: pytest.LogCaptureFixture) -> None:
    """The residual U-Net only: the gated U-Net takes a minute to compile (benchmarks/options.py compares it)."""
    plain, compiled = make(config("blended")), make(config("blended", MODEL__COMPILE=True))
    compiled.load_state_dict(plain.state_dict())
    camera = orbit_cameras(1, SIZE)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "npcr"):
        wanted, found = plain(camera), compiled(camera)
    if compiled.runner.compiled is None:
        pytest.skip(f"torch.compile does not work here: {caplog.text}")
    assert (found.color - wanted.color).abs().max() < 1e-4
    assert (found.alpha - wanted.alpha).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_compiled_network(form: str) -> None:
    net, run = network(form, "torch"), NetworkRunner()
    x = picture(net)
    net(x).square().mean().backward()
    wanted = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    run.compile(net, backend="aot_eager")
    run(net, x).square().mean().backward()
    found = [p.grad for p in net.parameters() if p.grad is not None]
    assert run.compiled is not None
    assert max(w.abs().max() for w in wanted) > 1e-4
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_compiled_network_with_half_activations(form: str) -> None:
    """SOLVER.HALF_ACTIVATIONS finds what a compiled network keeps for its gradients, too."""
    net, run = network(form), NetworkRunner()
    x = torch.rand(1, net.in_channels, 96, 120, generator=torch.Generator().manual_seed(0))
    run.compile(net, backend="aot_eager")
    gradients = []
    for half in (False, True):
        net.zero_grad()
        with half_activations(half) as packing:
            run(net, x).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert run.compiled is not None
    assert packing is not None
    assert packing.bytes_after == packing.bytes_before / 2 > 100_000
    assert 0 < (gradients[1] - gradients[0]).norm() < 2e-2 * gradients[0].norm()


def test_a_deep_copy_runs_its_own_weights() -> None:
    """Refining holds on to the unrefined model in this way."""
    renderer = make(config("blended"))
    renderer.runner.compile(renderer.network, backend="eager")
    frozen = copy.deepcopy(renderer)
    x = picture(renderer.network)
    with torch.no_grad():
        before = renderer.run_network(x)
        nn.init.zeros_(renderer.network.out.weight)
        assert torch.equal(frozen.run_network(x), before)
        assert not torch.equal(renderer.run_network(x), before)


@pytest.mark.slow
def test_where_compiling_fails_the_network_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Callable[..., Any]:
        raise RuntimeError("no compiler anywhere")

    net, run = network("layered"), NetworkRunner()
    x = picture(net)
    with torch.no_grad():
        wanted = net(x)
    run.compile(net, backend=broken)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "npcr"):
        found = [run(net, x) for _ in range(3)]
    assert all(torch.equal(each, wanted) for each in found)
    assert len(caplog.records) == 1
    assert "no compiler anywhere" in caplog.text
    assert "C++ compiler" in caplog.text


# Reduced precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_of_the_network_alone(form: str, precision: str) -> None:
    renderer = make(config(form, MODEL__NORM="batch", PROJECTION__BACKEND="torch"))
    camera = orbit_cameras(1, SIZE)
    seen: list[torch.dtype] = []
    last = renderer.network.out if isinstance(renderer.network, ResidualUNet) else renderer.network.alpha_out.point
    last.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    with torch.no_grad():
        wanted = renderer(camera)
        prepare_rendering(renderer, config(form, RENDER__PRECISION=precision))
        found = renderer(camera)
    half = numerics.PRECISIONS[precision]
    assert seen == [torch.float32, half if form == "blended" else torch.float32]  # a gated U-Net's last block is exact
    assert found.color.dtype == found.alpha.dtype == torch.float32
    assert torch.equal(found.depth, wanted.depth)
    # Batch norm: instance norm over the two or three pixels of the deepest level here would enlarge differences.
    difference = (found.color - wanted.color).abs().max()
    assert 0 < difference < 0.05 * wanted.color.abs().max()


def test_gradients_are_in_full_precision() -> None:
    net = network("blended")
    prepared = make(config("blended"))
    prepared.network.load_state_dict(net.state_dict())
    prepare_rendering(prepared, config("blended", RENDER__PRECISION="bfloat16"))
    assert torch.equal(net(picture(net)), prepared.run_network(picture(net)))


def test_reduced_precision_within_another_autocast_sees_changed_weights() -> None:
    net, run = network("blended"), NetworkRunner()
    run.precision = "bfloat16"
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = run(net, picture(net))
            net.out.weight.data.mul_(3)
            after = run(net, picture(net))
        assert (after - before).abs().max() > 1e-2
        assert torch.equal(after, run(net, picture(net)))


# CUDA graphs ---------------------------------------------------------------------------------------------


class FakeCapture:
    """Does on a CPU what a CUDA graph does on a GPU: computes from, and into, memory that stays where it is."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], Tensor], device: torch.device) -> Captured:
        self.captures += 1
        with torch.inference_mode(False):  # a graph's memory can be written to in either mode
            output = torch.full(run().shape, torch.nan)  # capturing computes nothing

        def replay() -> None:
            self.replays += 1
            output.copy_(run())

        return output, replay


@pytest.mark.parametrize("form", FORMS)
def test_replayed_frames_equal_plain_ones(form: str) -> None:
    net = network(form)
    pictures = [picture(net, 2, seed) for seed in range(4)]
    with torch.no_grad():
        wanted = [net(x) for x in pictures]
        run, capture = NetworkRunner(), FakeCapture()
        run.graph = GraphReplay(capture)
        found = [run(net, x) for x in pictures]  # all are kept: no frame may be written over by the next
    assert (capture.captures, capture.replays) == (1, 4)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_replay_in_and_out_of_inference_mode() -> None:
    net, run = network("blended"), NetworkRunner()
    run.graph = GraphReplay(FakeCapture())
    x = picture(net)
    with torch.inference_mode():
        first = run(net, x)
    with torch.no_grad():
        assert torch.equal(run(net, x), first)


def test_weights_that_change_are_seen() -> None:
    net, run, capture = network("blended"), NetworkRunner(), FakeCapture()
    run.graph = GraphReplay(capture)
    x = picture(net)
    with torch.no_grad():
        first = run(net, x)
        net.load_state_dict({name: value * 2 for name, value in net.state_dict().items()})  # in place
        second = run(net, x)
        assert capture.captures == 1
        net.out.weight.data = torch.zeros_like(net.out.weight)  # elsewhere
        third = run(net, x)
    assert capture.captures == 2
    assert not torch.equal(first, second)
    assert torch.equal(third, net.out.bias[:, None, None].expand_as(third))


def test_weights_in_the_same_memory_in_another_order_are_captured_anew() -> None:
    net, run, capture = network("blended"), NetworkRunner(), FakeCapture()
    run.graph = GraphReplay(capture)
    with torch.no_grad():
        run(net, picture(net))
        net.out.weight.data = net.out.weight.data.transpose(2, 3)
        assert torch.equal(run(net, picture(net)), net(picture(net)))
    assert capture.captures == 2


def test_another_mode_or_precision_is_captured_anew() -> None:
    net, run, capture = network("blended"), NetworkRunner(), FakeCapture()
    run.graph = GraphReplay(capture)
    counts = []
    with torch.no_grad():
        for net.training, run.precision in [(False, "float32"), (True, "float32"), (True, "bfloat16")] * 2:
            run(net, picture(net))
            run(net, picture(net))
            counts.append(capture.captures)
    assert counts == [1, 2, 3, 4, 5, 6]


def test_a_copy_captures_anew() -> None:
    """A graph can neither be copied nor read the copy's weights."""
    net, run = network("blended"), NetworkRunner()
    run.graph = GraphReplay(FakeCapture())
    with torch.no_grad():
        before = run(net, picture(net))
        copied_net, copied = copy.deepcopy((net, run))
        assert copied.graph is not None
        assert vars(copied.graph).keys() == vars(GraphReplay()).keys()
        nn.init.zeros_(net.out.weight)
        assert torch.equal(copied(copied_net, picture(net)), before)


def test_another_size_is_captured_anew_and_gradients_are_not_captured() -> None:
    net, run, capture = network("blended"), NetworkRunner(), FakeCapture()
    run.graph = GraphReplay(capture)
    with torch.no_grad():
        assert [run(net, picture(net, count)).shape[0] for count in (1, 2, 2, 1)] == [1, 2, 2, 1]
    assert (capture.captures, capture.replays) == (3, 4)
    run(net, picture(net)).sum().backward()
    assert capture.replays == 4
    assert net.out.weight.grad is not None


def test_regions_are_cut_outside_of_what_is_captured() -> None:
    net, run, capture = network("layered"), NetworkRunner(), FakeCapture()
    x = picture(net)
    regions = [PixelRegion(3, 2, 20, 18, SIZE[::-1]), PixelRegion(0, 5, 32, 24, SIZE[::-1])]
    with torch.no_grad():
        wanted = [net(x, region) for region in regions]
        run.graph = GraphReplay(capture)
        found = [run(net, x, region) for region in regions]
    assert capture.captures == 1
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_without_a_gpu_graphs_are_left_out_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    renderer = make(config("blended"))
    with caplog.at_level(logging.WARNING, "npcr"):
        prepare_rendering(renderer, config("blended", RENDER__CUDA_GRAPHS=True))
    assert renderer.runner.graph is None
    assert "RENDER.CUDA_GRAPHS is True, but rendering is on the cpu" in caplog.text


class _NoHost(TorchDispatchMode):
    """Refuses what a CUDA graph cannot capture: values from the host, and waiting for values from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in ("lift_fresh", "_local_scalar_dense", "nonzero"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("net", [GatedUNet(7, "instance"), GatedUNet(7, "batch"), GatedUNet(7, "none"),
                                 ResidualUNet(7, 4, 4)], ids=["instance", "batch", "none", "residual"])
def test_the_networks_can_be_captured(net: nn.Module) -> None:
    net = copy.deepcopy(net).eval().to("meta")
    with torch.no_grad(), _NoHost():
        assert net(torch.empty(1, 7, 24, 32, device="meta")).shape == (1, 4, 24, 32)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_captured_on_a_gpu(form: str, precision: str) -> None:
    renderer = make(config(form)).cuda()
    cameras = orbit_cameras(3, SIZE).to("cuda")
    prepare_rendering(renderer, config(form, RENDER__PRECISION=precision))
    with torch.inference_mode():
        wanted = [renderer(cameras[i]).color for i in range(3)]
        prepare_rendering(renderer, config(form, RENDER__PRECISION=precision, RENDER__CUDA_GRAPHS=True))
        found = [renderer(cameras[i]).color for i in range(3)]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
