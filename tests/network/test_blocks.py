"""Residual branches that can be removed: which these are, by hand, and that the network without them is right."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwprune.budget import Plan
from hwprune.deploy.export import exported_proto
from hwprune.errors import InputError
from hwprune.footprint import footprint
from hwprune.network import Masks, cut, masked, trace, verify_cut
from hwprune.network.surgery import Removed
from hwprune.targets import Target, runtime_for

from . import models
from .handwritten import awakened

IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))


def conv_bn(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return models.conv_bn(inputs, outputs, kernel)


class InARow(nn.Module):
    """Two branches on one stream, the first added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a = nn.Sequential(conv_bn(8, 6), nn.ReLU(inplace=True), conv_bn(6, 8))
        self.b_in, self.b_out = conv_bn(8, 7), conv_bn(7, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a(x)
        y += x
        return self.head(F.relu(y + self.b_out(F.gelu(self.b_in(y)))))


class SideBySide(nn.Module):
    """Both branches read what the stream held before either was added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1))
        self.b = nn.Sequential(nn.Conv2d(8, 7, 1), nn.Sigmoid(), nn.Conv2d(7, 8, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.a(x) + self.b(x))


class Encoder(nn.Module):
    """Attention, which returns a pair, and a perceptron with a layer scale of a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.gamma = nn.Parameter(torch.full((16,), 0.7))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.drop(self.gamma * self.mlp(self.norm2(x)))
        return self.head(x.mean(1))


class Projected(nn.Module):
    """Both sides of the addition are computed: neither passes unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 6), nn.ReLU(), conv_bn(6, 8))
        self.shortcut = conv_bn(3, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) + self.shortcut(x))


class Overheard(nn.Module):
    """What the branch gives is used elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body = nn.Sequential(conv_bn(8, 6), nn.ReLU(), conv_bn(6, 8))
        self.head, self.other = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = self.body(x)
        return self.head(x + y), self.other(y)


class Twice(nn.Module):
    """One module is the branch of two additions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.body(x)
        return self.head(x + self.body(x))


class Shifted(nn.Module):
    """Behind the branch's last module comes a bias: zeros would not stay zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1))
        self.bias = nn.Parameter(torch.randn(8, 1, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + (self.body(x) + self.bias))


class Nested(nn.Module):
    """A branch with a residual block of its own; the inner one is offered."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.enter, self.leave = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.inner = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.enter(x)
        y = y + self.inner(y)
        return self.head(x + self.leave(y))


class NothingInside(nn.Module):
    """No channels belong to the branch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv_bn(3, 8), conv_bn(8, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))


class InPlace(nn.Module):
    """The branch starts by overwriting the stream: that has to go on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(conv_bn(8, 6), nn.ReLU(), conv_bn(6, 8))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(self.act(x)))


class Curious(nn.Module):
    """The code looks into the module, which what stands for it does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.two(F.relu(self.one(x.to(self.one.weight.dtype)))))


class Windows(nn.Module):
    """The branch rolls, cuts into windows and puts together again, and its gate is as large as a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.norm = nn.GroupNorm(1, 8)
        self.mix = nn.Sequential(nn.Linear(16, 11), nn.GELU(), nn.Linear(11, 16))
        self.drop = nn.Identity()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(x).roll((1, 1), (2, 3))
        n, c, h, w = y.shape
        y = self.mix(y.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(n, c, -1, 16))
        y = y.reshape(n, c, h // 4, w // 4, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)
        x = x + self.drop(y.roll((-1, -1), (2, 3)))
        return self.head(x + self.gate(x))


Blocks = Mapping[str, tuple[tuple[str, ...], Mapping[str, int]]]  # name → its groups, what its modules are replaced by
CASES: dict[type[nn.Module], tuple[Tensor, Blocks]] = {
    models.ResNet: (
        IMAGE,
        {
            "layer1": (
                ("layer1.conv1",),
                {"layer1.conv1": 1, "layer1.bn1": 1, "layer1.conv2": 1, "layer1.bn2": 1},
            )
        },
    ),
    InARow: (IMAGE, {"a": (("a.0.0",), {"a": 1}), "b_out": (("b_in.0",), {"b_in": 1, "b_out": 1})}),
    SideBySide: (IMAGE, {"a": (("a.0",), {"a": 1}), "b": (("b.0",), {"b": 1})}),
    Encoder: (
        TOKENS,
        {
            "attention": (("attention",), {"norm1": 1, "attention": 2}),
            "drop": (("mlp.0",), {"norm2": 1, "mlp": 1, "drop": 1}),
        },
    ),
    Projected: (IMAGE, {}),
    Overheard: (IMAGE, {}),
    Twice: (IMAGE, {}),
    Shifted: (IMAGE, {}),
    Nested: (IMAGE, {"inner": (("inner.0",), {"inner": 1})}),
    NothingInside: (IMAGE, {}),
    InPlace: (IMAGE, {"body": (("body.0.0",), {"body": 1})}),
    Curious: (IMAGE, {}),
    Windows: (IMAGE, {"drop": (("mix.0",), {"norm": 1, "mix": 1, "drop": 1}), "gate": (("gate.1",), {"gate": 1})}),
}
WITH_BLOCKS = [kind for kind, (_, blocks) in CASES.items() if blocks]
each = pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
each_with_blocks = pytest.mark.parametrize("kind", WITH_BLOCKS, ids=lambda kind: kind.__name__)
_TRACED: dict[type[nn.Module], tuple] = {}


def traced(kind):
    """The model, its network, and its example; the same ones every time."""
    if kind not in _TRACED:
        torch.manual_seed(0)
        model = awakened(kind()).eval()
        _TRACED[kind] = model, trace(model, CASES[kind][0]), CASES[kind][0]
    return _TRACED[kind]


def some(network, seed):
    """Blocks to remove, at least one, and channels to keep of everything else: group → channels."""
    chooser = random.Random(seed)
    gone = chooser.sample(network.blocks, chooser.randint(1, len(network.blocks)))
    kept = {g.name: sorted(chooser.sample(range(g.channels), chooser.randint(2, g.channels))) for g in network.cuttable}
    return kept | {name: [] for block in gone for name in block.groups}


@each
def test_the_blocks_are_those_written_out_by_hand(kind):
    _, network, _ = traced(kind)
    found = {block.name: (block.groups, dict(block.modules)) for block in network.blocks}
    assert found == CASES[kind][1]


@each_with_blocks
@pytest.mark.parametrize("seed", range(4))
def test_without_blocks_it_computes_what_it_does_when_they_are_silent(kind, seed):
    model, network, example = traced(kind)
    kept = some(network, seed)
    smaller = cut(model, network.cuts(kept))
    assert verify_cut(model, smaller, network, kept, example).max_relative_error < 1e-5
    removed = network.removed(kept)
    stand_ins = {path for path, module in smaller.named_modules() if isinstance(module, Removed)}
    assert stand_ins == {path for block in removed for path in block.modules}
    assert not any(block.holds(name) for block in removed for name in smaller.state_dict())


@each_with_blocks
def test_silent_is_what_the_addition_without_its_branch_is(kind):
    """Against a forward in which every removed addition is replaced by hand, operator by operator."""
    model, network, example = traced(kind)
    kept = {name: [] for block in network.blocks for name in block.groups}
    without = cut(model, network.cuts(kept))
    assert torch.allclose(first(without(example)), first(by_hand(kind, model, example)), atol=1e-5)


def by_hand(kind, model, x):
    """The forward of each module without its branches."""
    if kind is models.ResNet:
        return model.fc(F.adaptive_avg_pool2d(model.layer2(F.relu(model.stem(x))), 1).flatten(1))
    if kind is Encoder:
        return model.head(model.embed(x).mean(1))
    if kind is Nested:
        x = model.stem(x)
        return model.head(x + model.leave(model.enter(x)))
    x = model.stem(x)
    return model.head(F.relu(x) if kind in (InARow, InPlace) else x)


def first(output):
    return output[0] if isinstance(output, tuple) else output


@each_with_blocks
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_is_what_was_said(kind, seed):
    model, network, example = traced(kind)
    kept = some(network, seed)
    widths = {**network.dense_widths, **{name: len(channels) for name, channels in kept.items()}}
    smaller = cut(model, network.cuts(kept))
    assert network.parameters_at(widths) == sum(one.numel() for one in smaller.parameters())
    again = trace(smaller, example, verify=False)
    assert network.macs_at(widths) == again.macs_at(again.dense_widths)
    runtime = runtime_for(Target(name="any"))
    taken, counted = footprint(network, runtime, widths=widths), footprint(again, runtime)
    assert taken.weight_bytes == pytest.approx(counted.weight_bytes, abs=4 * len(network.layers))
    assert taken.parameters == network.parameters_at(widths)
    assert all(
        (layer.parameters, layer.held_bytes) == (0, None)
        for block in network.removed(kept)
        for layer in taken.layers
        if layer.name in block.layers
        and not any(one.layer == layer.name and not one.present for one in network.parameters)
    )


@each_with_blocks
def test_nothing_of_a_removed_block_is_exported(kind):
    model, network, example = traced(kind)
    kept = {name: [] for block in network.blocks for name in block.groups}
    smaller = cut(model, network.cuts(kept))
    graph = exported_proto(smaller, example)
    names = {tensor.name for tensor in graph.graph.initializer}
    assert not any(block.holds(name) for block in network.blocks for name in names)
    additions = [node for node in graph.graph.node if node.op_type == "Add" and set(node.input) <= {"zeros_like"}]
    assert not additions
    dense = exported_proto(model, example)
    adds = [sum(node.op_type == "Add" for node in one.graph.node) for one in (graph, dense)]
    assert adds[0] <= adds[1] - len(network.blocks)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found, *_) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    np.testing.assert_allclose(found, first(smaller(example)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_trained_zeros_stay_in_the_graph():
    """A bias that is zero is a parameter, not something that a removed block left."""
    model, network, example = traced(Encoder)
    smaller = cut(model, network.cuts({"attention": []}))
    with torch.no_grad():
        smaller.embed.bias.zero_()
    names = {tensor.name for tensor in exported_proto(smaller, example).graph.initializer}
    assert "embed.bias" in names


@each_with_blocks
def test_a_plan_is_replayed_on_a_fresh_model(kind):
    model, network, example = traced(kind)
    kept = some(network, 1)
    plan = Plan(widths={name: len(one) for name, one in kept.items()}, cuts=network.cuts(kept))
    plan = Plan.from_json(plan.to_json())
    fresh = kind().eval()
    fresh.load_state_dict(model.state_dict())
    one, other = cut(fresh, plan.cuts), cut(model, network.cuts(kept))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(first(one(example)), first(other(example)))
    stream = io.BytesIO()
    torch.save(one.state_dict(), stream)
    copied = copy.deepcopy(one).train()
    first(copied(example)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in copied.named_parameters() if name != "gamma")


def test_a_plan_for_another_model_is_refused():
    model, network, _ = traced(InARow)
    cuts = network.cuts({"a.0.0": []})
    assert cuts == {"a": {1: []}}
    with pytest.raises(InputError, match=r"removes 'c'"):
        cut(model, {"c": {1: []}})
    with pytest.raises(InputError, match="0 outputs"):
        cut(model, {"a": {0: []}})
    with pytest.raises(InputError, match=r"a\.0\.0\.weight"):
        cut(model, {"a.0.0.weight": {0: []}})


def test_only_a_whole_block_can_be_left_without_channels():
    _, network, _ = traced(InARow)
    with pytest.raises(InputError, match="no channel of group stem"):
        network.cuts({"stem.0": []})
    with pytest.raises(InputError, match=r"no channel of group stem\.0"):
        masked(traced(InARow)[0], network, {"stem.0": [], "a.0.0": []})


# Masks ----------------------------------------------------------------------------------------------------------------


def test_blocks_are_switched_off_and_on_again():
    model, network, example = traced(InARow)
    model = copy.deepcopy(model)
    dense = model(example)
    masks = Masks(model, network)
    masks.remove("a.0.0", [1, 3])
    masks.apply()
    thinner = model(example)
    masks.remove_block("a")
    masks.remove_block("a")
    masks.apply()
    assert masks.kept["a.0.0"] == []
    assert torch.equal(model(example), masked(model, network, {"a.0.0": []})(example))
    smaller = cut(model, masks.kept_plan())
    assert torch.allclose(smaller(example), model(example), atol=1e-5)
    masks.restore_block("a")
    assert masks.kept["a.0.0"] == [0, 2, 4, 5]
    assert torch.equal(model(example), thinner)
    masks.restore("a.0.0", [1, 3])
    assert torch.equal(model(example), dense)
    with pytest.raises(InputError, match="block 'c' does not exist"):
        masks.remove_block("c")


def test_masks_continue_with_the_blocks_that_were_off():
    model, network, example = traced(Encoder)
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    masks, again = Masks(one, network), Masks(other, network)
    masks.remove_block("attention")
    masks.remove("mlp.0", [0, 5])
    again.remove_block("drop")
    again.load_state_dict(masks.state_dict())
    masks.apply()
    again.apply()
    assert again.kept == masks.kept
    assert torch.equal(one(example), other(example))


def test_a_silent_block_is_not_trained_but_has_gradients():
    """Training on several devices waits for the gradient of every parameter."""
    model, network, example = traced(InARow)
    model = copy.deepcopy(model).train()
    masks = Masks(model, network)
    masks.remove_block("a")
    model(example).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(not parameter.grad.any() for parameter in model.a.parameters())
    assert all(parameter.grad.any() for parameter in model.b_out[1].parameters())


def test_a_copy_of_a_masked_model_is_not_silent():
    model, network, example = traced(InARow)
    working = copy.deepcopy(model)
    masks = Masks(working, network)
    masks.remove_block("a")
    assert torch.equal(cut(working, {})(example), model(example))
