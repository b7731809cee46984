"""Heads and the size of a head: two groups through the same positions."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwprune import device_runner
from hwprune.budget import Plan, solve
from hwprune.deploy import export_onnx
from hwprune.errors import InputError
from hwprune.network import Masks, Network, cut, inspection, masked, trace, verify_cut
from hwprune.pruning import price
from hwprune.report import network_svg
from hwprune.saliency import MagnitudeL1

from .handwritten import Case, awakened, channels, check_groups, check_random_cuts, ends, parts, runs, tokens

HEADS, SIZE = 2, 3


def of_heads(thirds: int = 1) -> list[list[int]]:
    """The positions of head h in queries, keys and values one behind the other."""
    return [[(t * HEADS + h) * SIZE + d for t in range(thirds) for d in range(SIZE)] for h in range(HEADS)]


def of_sizes(thirds: int = 1) -> list[list[int]]:
    """The positions of position d of a head, in all heads."""
    return [[(t * HEADS + h) * SIZE + d for t in range(thirds) for h in range(HEADS)] for d in range(SIZE)]


class Attention(nn.Module):
    """Embedding, attention, head; what differs is how queries, keys and values are made, and what divides scores."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size, self.inner = HEADS, SIZE, HEADS * SIZE
        self.embed, self.out, self.head = nn.Linear(5, 8), nn.Linear(self.inner, 8), nn.Linear(8, 4)
        self.scale = self.size**-0.5

    def parts(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        x = self.attended(*self.parts(self.embed(x)))
        return self.head(self.out(x.transpose(1, 2).flatten(2)))


class Joint(Attention):
    """One layer makes all three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 3 * self.inner)

    def parts(self, x: Tensor) -> list[Tensor]:
        return list(self.qkv(x).view(*x.shape[:2], 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0))


class JointDividing(Joint):
    """What scores are divided by follows from the size."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Interleaved(JointDividing):
    """Queries, keys and values of a head lie one behind the other; the size is computed."""

    def parts(self, x: Tensor) -> list[Tensor]:
        return list(self.qkv(x).view(*x.shape[:2], self.heads, 3, self.size).permute(3, 0, 2, 1, 4).unbind(0))


class Separate(Attention):
    """Three layers; views by the number of heads, so that the sizes of queries and of values may differ."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, self.inner) for _ in range(3))

    def parts(self, x: Tensor) -> list[Tensor]:
        return [layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)]


class OneSize(Separate):
    """Three layers; one attribute is the size of all."""

    def parts(self, x: Tensor) -> list[Tensor]:
        return [layer(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v)]


class OneSizeDividing(OneSize):
    """The size of an attribute decides what scores are divided by."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) / math.sqrt(self.size)).softmax(-1) @ v


class Normalised(OneSizeDividing):
    """Queries and keys are normalised, so that only the norm can make up for another divisor."""

    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attended(self.q_norm(q), self.k_norm(k), v)


class Rotary(OneSize):
    """Positions of a head are rotated in pairs, by angles that the model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 6
        self.q, self.k, self.v = (nn.Linear(8, HEADS * self.size) for _ in range(3))
        self.out = nn.Linear(HEADS * self.size, 8)
        self.register_buffer("speed", torch.tensor([1.0, 0.3, 0.1]))

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * self.speed
        left, right = x.chunk(2, -1)
        return torch.cat([left * angle.cos() - right * angle.sin(), left * angle.sin() + right * angle.cos()], -1)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attended(self.turned(q), self.turned(k), v)


class OverSize(Joint):
    """Attention over the positions of a head, as in cross-covariance attention."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v @ (q.transpose(-2, -1) @ k).softmax(-1)


JOINT = {
    "embed": channels(8, "+embed -qkv"),
    "qkv": channels(HEADS, "heads:0", {"+qkv": of_heads(3), "-out": of_heads()}),
    "qkv#2": channels(SIZE, "size:0", {"+qkv": of_sizes(3), "-out": of_sizes()}),
    "out": channels(8, "+out -head"),
}
INTERLEAVED = {
    **JOINT,
    "qkv": channels(HEADS, "heads:0", {"+qkv": runs(HEADS, 3 * SIZE), "-out": of_heads()}),
    "qkv#2": channels(SIZE, "size:0", {"+qkv": parts(SIZE, 3 * HEADS), "-out": of_sizes()}),
}
EMBED = channels(8, "+embed -q -k -v")
SEPARATE = {
    "embed": EMBED,
    "q": channels(SIZE, "", {"+q +k": of_sizes()}),
    "v": channels(SIZE, "", {"+v -out": of_sizes()}),
    "q#2": channels(HEADS, "heads:0", {"+q +k +v -out": of_heads()}),
    "out": channels(8, "+out -head"),
}
ONE_SIZE = {
    "embed": EMBED,
    "q": channels(HEADS, "", {"+q +k +v -out": of_heads()}),
    "q#2": channels(SIZE, "size:0", {"+q +k +v -out": of_sizes()}),
    "out": channels(8, "+out -head"),
}
NORMS = {f"{norm}_norm.{tensor}:0": [[0], [1], [2]] for norm in "qk" for tensor in ("weight", "bias")}
ENDS = ends("embed", "head", flat=True)
CASES = [
    Case(Joint, tokens(), JOINT, ENDS),
    Case(JointDividing, tokens(), JOINT, ENDS),
    Case(Interleaved, tokens(), INTERLEAVED, ENDS),
    Case(Separate, tokens(), SEPARATE, ENDS),
    Case(OneSize, tokens(), ONE_SIZE, ENDS),
    Case(OneSizeDividing, tokens(), ONE_SIZE, ENDS),
    Case(
        Normalised,
        tokens(),
        {**ONE_SIZE, "q#2": channels(SIZE, "size:0", {"+q +k +v -out": of_sizes(), " ".join(NORMS): [[0], [1], [2]]})},
        ENDS,
    ),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.module.__name__)
_traced: dict[type[nn.Module], Network] = {}


def traced(case: Case) -> Network:
    if case.module not in _traced:
        _traced[case.module] = trace(case.model(), case.example, head_sizes=True)
    return _traced[case.module]


@each
def test_the_groups_are_those_written_out_by_hand(case):
    check_groups(case, traced(case))


@each
def test_random_cuts_equal_the_original_with_those_channels_masked(case):
    check_random_cuts(case, traced(case))


@each
def test_parameters_and_macs_are_those_of_the_cut_network(case):
    network, generator = traced(case), np.random.default_rng(0)
    for _ in range(4):
        widths = {group.name: int(generator.integers(1, group.channels + 1)) for group in network.cuttable}
        smaller = cut(case.model(), network.cuts({name: range(width) for name, width in widths.items()}))
        again = trace(smaller, case.example, verify=False)
        assert network.parameters_at(widths) == sum(parameter.numel() for parameter in smaller.parameters())
        assert network.macs_at(widths) == again.macs_at(again.dense_widths)
        written = [math.prod(layer.output.at(widths)) for layer in network.layers if layer.macs]
        assert written == [math.prod(layer.output.shape) for layer in again.layers if layer.macs]


RESCALED = {
    Joint: [],
    JointDividing: ["qkv.weight", "qkv.bias"],
    Interleaved: ["qkv.weight", "qkv.bias"],
    Separate: [],
    OneSize: [],
    OneSizeDividing: ["q.weight", "q.bias"],
    Normalised: ["q_norm.weight", "q_norm.bias"],
}


@each
def test_queries_make_up_for_a_divisor_that_follows_from_the_size(case):
    rescaled = [member for group in traced(case).groups for member in group.rescaled]
    assert sorted(member.tensor for member in rescaled) == sorted(RESCALED[case.module])
    if case.module is JointDividing:
        assert sorted(rescaled[0].index.ravel()) == list(range(HEADS * SIZE))
    if case.module is Interleaved:
        assert sorted(rescaled[0].index.ravel()) == [0, 1, 2, 9, 10, 11]


def test_the_divisor_is_noticed_where_attention_is_dull():
    """With such weights every token attends to all alike, whatever scores are divided by."""
    model = CASES[1].model()
    with torch.no_grad():
        model.qkv.weight.mul_(1e-3)
    (size,) = (group for group in trace(model, tokens(), head_sizes=True).cuttable if group.name == "qkv#2")
    assert [member.tensor for member in size.rescaled] == RESCALED[JointDividing]


def test_a_plan_is_replayed_on_a_fresh_instance():
    case = CASES[1]
    model, network = case.model(), traced(case)
    kept = {"embed": [0, 2, 5], "qkv": [1], "qkv#2": [0, 2], "out": list(range(8))}
    plan = Plan.from_json(Plan(widths={}, cuts=network.cuts(kept)).to_json())
    again = cut(case.model(), plan.cuts)
    torch.testing.assert_close(again(case.example), masked(model, network, kept)(case.example), rtol=1e-5, atol=1e-5)
    assert (again.heads, again.size, again.qkv.out_features, again.out.in_features) == (1, 2, 6, 2)
    dense = model.qkv.weight[[3, 5]][:, [0, 2, 5]] * (2 / 3) ** 0.5
    torch.testing.assert_close(again.qkv.weight[:2], dense)
    del model.qkv
    with pytest.raises(InputError, match=r"the plan has 'rescaled qkv.weight', which this model does not have"):
        cut(model, plan.cuts)


def test_masks_in_training_and_back():
    case = CASES[1]
    model, network = case.model(), traced(case)
    masks = Masks(model, network)
    before = copy.deepcopy(model.qkv.weight)
    masks.remove("qkv", [0])
    masks.remove("qkv#2", [1])
    masks.apply()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        model(case.example).square().mean().backward()
        optimizer.step()
        masks.apply()
    smaller = cut(model, masks.kept_plan())
    torch.testing.assert_close(model(case.example), smaller(case.example), rtol=1e-4, atol=1e-5)
    masks.restore("qkv", [0])
    off = of_sizes(3)[1]
    assert not model.qkv.weight[off].any()
    back = sorted(set(of_heads(3)[0]) - set(off))
    torch.testing.assert_close(model.qkv.weight[back], before[back])


def test_both_are_inspected_and_drawn():
    document = inspection(traced(CASES[0]))
    shown = {
        group["name"]: (group["channels"], group["positions"], group["attributes"]) for group in document["groups"]
    }
    assert shown["qkv"] == (HEADS, SIZE, ["heads"])
    assert shown["qkv#2"] == (SIZE, HEADS, ["size"])
    groups_of = {layer["name"]: layer["groups"] for layer in document["layers"]}
    assert groups_of["qkv"] == ["qkv", "qkv#2"]
    assert "qkv#2" in network_svg(document, title="both")


@pytest.mark.parametrize(
    "wrong", [{0: [0, 1], -1: [4, 3]}, {0: [99], -1: [2, 3]}, {0: [0], -1: [2]}, {5: [0], -1: [2, 3]}, {0: [0]}, {}]
)
def test_nonsense_about_what_is_rescaled_is_refused(wrong):
    with pytest.raises(
        InputError, match=r"the plan has 'rescaled qkv.weight', which this model does not have like this"
    ):
        cut(CASES[1].model(), {"rescaled qkv.weight": wrong})


def test_what_a_position_of_a_head_is_worth():
    case = CASES[0]
    model, network = case.model(), traced(case)
    (size,) = (group for group in network.cuttable if group.name == "qkv#2")
    wanted = torch.stack([model.qkv.weight[rows].abs().sum() for rows in of_sizes(3)])
    torch.testing.assert_close(MagnitudeL1().score(size, dict(model.named_parameters()), {}), wanted.detach())


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_both_are_solved_for_to_a_certificate(share):
    case = CASES[3]
    network, prices = traced(case), price(traced(case), "macs")
    random = np.random.default_rng(0)
    scores = {group.name: random.random(group.channels) for group in network.cuttable}
    problem = prices.problem(
        scores, {name: list(range(len(s))) for name, s in scores.items()}, share * prices.value(prices.dense)
    )
    plan, best = solve(problem), 0.0
    offered = [problem.groups[name].widths for name in problem.groups]
    widths = dict(zip(problem.groups, np.stack(np.meshgrid(*offered)).reshape(len(offered), -1), strict=True))
    inside = problem.evaluate_each("macs", widths) <= problem.budgets["macs"]
    for index in np.flatnonzero(inside):
        best = max(best, problem.objective({name: int(values[index]) for name, values in widths.items()}))
    assert plan.objective == pytest.approx(best)
    assert plan.relative_gap == pytest.approx(0, abs=1e-4)
    assert plan.used["macs"] == network.macs_at(plan.widths)


def test_the_cut_network_is_exported(tmp_path):
    case = CASES[1]
    network = traced(case)
    smaller = cut(case.model(), network.cuts({"qkv": [1], "qkv#2": [0, 2]}))
    export_onnx(smaller, case.example, tmp_path / "cut.onnx")
    engine = device_runner.open_engine((tmp_path / "cut.onnx").read_bytes())
    (found,) = engine.run({engine.inputs[0]["name"]: case.example.numpy()})
    np.testing.assert_allclose(found, smaller(case.example).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"kdim": 12, "vdim": 12}], ids=str)
def test_torchs_own_layer_keeps_what_it_divides_by(options, need_weights):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(5, 12), nn.Linear(12, 4)
            self.layer = nn.MultiheadAttention(12, 3, batch_first=True, **options)

        def forward(self, x):
            x = self.embed(x)
            return self.head(x + self.layer(x, x, x, need_weights=need_weights)[0])

    torch.manual_seed(0)
    model = awakened(Tagger())
    network = trace(model, tokens(), head_sizes=True)
    found = {group.name: (group.channels, group.rescaled) for group in network.cuttable}
    assert found == {"embed": (12, ()), "layer": (3, ()), "layer#2": (4, ())}
    kept = {"embed": [1, 4, 6, 7], "layer": [0, 2], "layer#2": [0, 1, 3]}
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, tokens(), tolerance=1e-5)
    assert (smaller.layer.num_heads, smaller.layer.head_dim, smaller.layer.scale) == (2, 3, 4**-0.5)
    again = cut(Tagger(), network.cuts(kept))
    again.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(again.eval()(tokens()), smaller.eval()(tokens()))


def test_rotated_positions_go_in_pairs():
    torch.manual_seed(0)
    model = awakened(Rotary())
    network = trace(model, tokens(), head_sizes=True)
    (size,) = (group for group in network.cuttable if any(member.tensor == "size" for member in group.members))
    (speed,) = (member for member in size.members if member.tensor == "speed")
    (queries,) = (member for member in size.members if member.tensor == "q.weight")
    assert speed.index.tolist() == [[0], [1], [2]]
    assert queries.index.tolist() == [[pair, pair + 3, pair + 6, pair + 9] for pair in range(3)]
    kept = {size.name: [0, 2], "q": [1]}
    verify_cut(model, cut(model, network.cuts(kept)), network, kept, tokens(), tolerance=1e-5)


def test_a_size_that_attention_runs_over_stays_whole():
    model = awakened(OverSize())
    network = trace(model, tokens(), head_sizes=True)
    assert {group.name: group.channels for group in network.cuttable} == {"embed": 8, "qkv": HEADS, "out": 8}
    (why,) = (group.frozen for group in network.frozen if group.name == "qkv#2")
    assert "every channel depends on the others (_softmax in the model itself)" in why


def test_without_being_asked_for_heads_alone_are_cut():
    network = trace(CASES[0].model(), tokens())
    assert {group.name: group.channels for group in network.cuttable} == {"embed": 8, "qkv": HEADS, "out": 8}
