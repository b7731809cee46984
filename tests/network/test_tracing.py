"""Which channels go together, what cannot be cut and why; and that a trace leaves no trace."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.network import cut, trace, trial, verify_cut

from . import models

IMAGE = torch.randn(2, 3, 32, 32)


def groups(network):
    return {group.name: group.channels for group in network.cuttable}


def reasons(network):
    return {group.name: group.frozen for group in network.frozen}


def places(network, name):
    (group,) = [group for group in network.groups if group.name == name]
    return {(member.tensor, member.dim, member.role) for member in group.members}


EXPECTED = {
    models.ResNet: {"stem.0.0": 16, "layer1.conv1": 16, "layer2.conv1": 32, "layer2.conv2": 32},
    models.Frozen: {"stem.0.0": 16, "layer1.conv1": 16, "layer2.conv1": 32, "layer2.conv2": 32},
    models.UNet: {
        "down1.0.0": 8,
        "down2.0.0": 16,
        "middle.0.0": 24,
        "up2": 12,
        "dec2.0.0": 16,
        "up1": 8,
        "dec1.0.0": 8,
    },
    models.MobileNetV2: {
        "stem.0.0": 8,
        "blocks.1.body.0.0": 32,
        "blocks.1.body.4.0": 12,
        "blocks.2.body.0.0": 48,
        "head.0.0": 40,
    },
    models.Grouped: {"a.0": 4},
    models.Chunked: {"a.0": 12, "b": 8},
    models.FixedSplit: {"b": 8},
    models.SqueezeExcite: {"a.0": 16, "down": 4},
    models.Flattened: {"a": 8, "b": 12, "fc1": 20},
    models.Shared: {"stem": 12, "left": 8},
    models.OptionA: {"stem.0": 8, "a.0": 16},
    models.DenseNet: {"stem": 8, "convs.0": 6, "convs.1": 6, "convs.2": 6, "transition": 10},
    models.ShuffleNet: {"stem.0": 12, "left.1.0": 6, "right.0.0": 12, "body.0.0": 12},
    models.ViT: {"patch": 3, "fc1": 96},
    models.Functional: {"standardised": 8, "matrix": 6},
    models.Norms: {"a": 4, "b": 12, "c": 10, "d": 8, "up": 32},
    models.PixelShuffle: {"a": 8, "b": 5},
    models.HardCoded: {"a": 8, "fc1": 20},
}


@pytest.mark.parametrize("factory", EXPECTED, ids=lambda factory: factory.__name__)
def test_the_groups_of_a_network_and_every_cut_of_them(factory):
    torch.manual_seed(0)
    model = factory()
    example = torch.randn(2, 3, 16, 16) if factory is models.Flattened else IMAGE
    network = trace(model, example)
    assert groups(network) == EXPECTED[factory]
    assert all(reasons(network).values())
    generator = torch.Generator().manual_seed(0)
    for keep in (0.3, 0.7):
        kept = {
            name: sorted(torch.randperm(count, generator=generator)[: max(1, int(count * keep))].tolist())
            for name, count in groups(network).items()
        }
        smaller = cut(model, network.cuts(kept))
        report = verify_cut(model, smaller, network, kept, example)
        assert report.parameters == report.expected_parameters < network.total_parameters


def test_a_residual_sum_ties_both_branches_with_all_that_reads_them():
    network = trace(models.ResNet(), IMAGE, verify=False)
    assert places(network, "layer2.conv2") == {
        ("layer2.conv2.weight", 0, "out"),
        ("layer2.down.0.weight", 0, "out"),
        ("fc.weight", 1, "in"),
        *(
            (f"layer2.{norm}.{tensor}", 0, "norm")
            for norm in ("bn2", "down.1")
            for tensor in ("weight", "bias", "running_mean", "running_var")
        ),
    }


def test_positions_behind_a_concatenation_a_flatten_and_a_split_are_exact():
    network = trace(models.UNet(), IMAGE)
    members = {group.name: {member.tensor: member.index for member in group.members} for group in network.groups}
    assert members["up2"]["dec2.0.0.weight"].ravel().tolist() == list(range(12))
    assert members["down2.0.0"]["dec2.0.0.weight"].ravel().tolist() == list(range(12, 28))
    network = trace(models.Flattened(), torch.randn(2, 3, 16, 16))
    (group,) = [group for group in network.groups if group.name == "b"]
    flat = next(member.index for member in group.members if member.tensor == "fc1.weight")
    assert flat.tolist() == [list(range(16 * channel, 16 * channel + 16)) for channel in range(12)]
    network = trace(models.Chunked(), IMAGE)
    (group,) = [group for group in network.groups if group.name == "a.0"]
    halves = next(member.index for member in group.members if member.tensor == "a.0.weight")
    assert halves.tolist() == [[channel, channel + 12] for channel in range(12)]


class Secretive(models.Attention):
    """Where the number of heads is written, no plan can reach."""

    @property
    def heads(self):
        return 3

    @heads.setter
    def heads(self, value):
        pass


def test_reasons_name_the_operator_and_its_place():
    model = models.ViT()
    model.attention = Secretive(24, 3)
    frozen = reasons(trace(model, IMAGE))
    assert "shape '[2, 17, 3, 3, 4]' is invalid" in frozen["patch"]
    assert "two activations are multiplied" in frozen["attention.qkv"]
    assert "in attention" in frozen["attention.qkv"]
    assert frozen["head"] == "the model's output"
    assert "network's input" in frozen["input of patch"]
    frozen = reasons(trace(models.HardCoded(), IMAGE))
    assert "shape '[-1, 12]' is invalid" in frozen["b"]
    frozen = reasons(trace(models.OptionA(), IMAGE))
    assert frozen["b.0"].startswith("channels added by padding")


def test_without_verification_a_size_in_the_code_goes_unnoticed():
    assert "b" in groups(trace(models.HardCoded(), IMAGE, verify=False))


class Blocks(nn.Module):
    """Blocks that are alike but for those whose code knows how many channels there are."""

    def __init__(self, count, hard):
        super().__init__()
        self.hard = hard
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(count))
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = conv(x).relu()
            if i in self.hard:
                x = x.reshape(x.shape[0], 8, 32, 32)
        return self.last(x)


@pytest.mark.parametrize("hard", [range(1, 24), [5]], ids=["all", "one"])
def test_counterparts_in_repeated_blocks(hard, monkeypatch):
    runs, failure = [], trial.Trial._misfit
    monkeypatch.setattr(trial.Trial, "_misfit", lambda *given: runs.append(given) or failure(*given))
    network = trace(Blocks(24, hard), IMAGE)
    frozen = {name for name, reason in reasons(network).items() if "is invalid for input of size" in reason}
    assert frozen == {f"convs.{i}" for i in hard}
    assert len(runs) < 30  # one by one they would be twice 24, with both ways of reading the views


def test_layers_that_never_run_are_listed():
    class Unused(models.ResNet):
        def __init__(self):
            super().__init__()
            self.extra = nn.Conv2d(16, 4, 3)

    assert reasons(trace(Unused(), IMAGE))["extra"] == "the forward pass of the example does not use it"


class Wrapped(nn.Module):
    """A body between two convolutions."""

    def __init__(self, body, channels=8):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = body
        self.last = nn.Conv2d(channels, 4, 1)

    def forward(self, x):
        return self.last(self.body(self.first(x)))


class WriteInPlace(nn.Module):
    def forward(self, x):
        out = torch.zeros_like(x)
        out[:, :4] = x[:, :4]
        out[:, 4:] += x[:, 4:] * 2
        return out.relu_()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 4, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.lstm(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (models.Call(lambda x: F.normalize(x, dim=1)), "reduced over the channels"),
        (models.Call(lambda x: x * x.softmax(1)), "every channel depends"),
        (models.Call(lambda x: torch.fft.fft2(x).real), "no rule for the operator aten._fft_c2c"),
        (models.Call(lambda x: x.sort(1).values), "every channel depends"),
        (models.Call(lambda x: x + torch.linspace(0, 1, 8).view(8, 1, 1)), "whose size is fixed"),
        (models.Call(lambda x: x[:, torch.arange(7, -1, -1)]), "channels are picked by their positions"),
        (models.Call(lambda x: x[:, :, torch.arange(31, -1, -1)]), None),
        (Recurrent(), None),
        (nn.LayerNorm([8, 32, 32]), "layer normalisation"),
        (nn.GroupNorm(1, 8), None),
        (nn.GroupNorm(1, 8, affine=False), "can only go together"),
        (nn.LayerNorm(32), None),
        (nn.Conv2d(8, 8, 3, padding=1, groups=1).requires_grad_(False), None),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)), None),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), None),
        (nn.Dropout2d(), None),
        (nn.Hardswish(), None),
        (nn.BatchNorm2d(8, affine=False), None),
        (nn.BatchNorm2d(8, track_running_stats=False), None),
        (nn.LPPool2d(2, 2), None),
        (models.Call(lambda x: torch.stack([x, -x]).amax(0)), None),
        (models.Call(lambda x: x.flatten(2).permute(2, 0, 1).permute(1, 2, 0).unflatten(2, x.shape[2:])), None),
        (WriteInPlace(), "taken apart|cutting it fails"),
    ],
)
def test_what_a_body_does_to_the_channels_in_front_of_it(body, why):
    network = trace(Wrapped(body), IMAGE)
    if why is None:
        assert "first" in groups(network)
    else:
        found = " ".join(reason for name, reason in reasons(network).items() if name == "first")
        assert any(word in found for word in why.split("|")), reasons(network)


def test_a_part_taken_at_a_fixed_position_pins_only_what_is_in_front_of_it_or_behind_it():
    network = trace(Wrapped(models.Call(lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1)[:, :-1])), IMAGE)
    assert groups(network) == {"first#2": 7}
    assert reasons(network)["first"].startswith("taken apart at a fixed position")
    network = trace(Wrapped(models.Call(lambda x: torch.cat([x[:, :3], 2 * x[:, 3:]], 1))), IMAGE)
    assert groups(network) == {"first#2": 5}
    network = trace(Wrapped(models.Call(lambda x: torch.cat([x[:, :-2], 2 * x[:, -2:]], 1))), IMAGE)
    assert groups(network) == {"first": 6}


class ThroughData(nn.Module):
    """Reads one weight through ``.data``, another in a form the model does not hold; counts its calls."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(8, 3, 1, 1))
        self.b = nn.Parameter(torch.randn(6, 8))
        self.c = nn.Parameter(torch.randn(4, 6, 1, 1))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x = F.relu(F.conv2d(x, self.a.data))
        x = F.conv2d(x, torch.as_strided(self.b.data, (6, 8, 1, 1), (8, 1, 1, 1)))
        return F.conv2d(F.relu(x), self.c)


def test_weights_read_behind_autograds_back_are_seen_or_frozen():
    model = ThroughData()
    frozen = reasons(trace(model, IMAGE))
    assert "no rule for the operator aten.as_strided" in frozen["b"]
    assert "a" in frozen  # what reads it is frozen
    assert model.calls == 0


def test_one_and_three_dimensional_convolutions():
    line = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 6, 2, 2), nn.Conv1d(6, 3, 1))
    assert groups(trace(line, torch.randn(2, 2, 16))) == {"0": 8, "2": 6}
    cube = nn.Sequential(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.AvgPool3d(2), nn.Conv3d(8, 3, 1))
    assert groups(trace(cube, torch.randn(1, 2, 8, 8, 8))) == {"0": 8}


def test_several_inputs_and_outputs_in_a_dataclass_or_dict():
    @dataclass
    class Answer:
        logits: torch.Tensor
        features: torch.Tensor

    class Two(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.b = nn.Linear(6, 8)
            self.c = nn.Linear(8, 10)
            self.d = nn.Linear(10, 3)
            self.kind = kind

        def forward(self, x, y):
            features = self.c(F.relu(self.a(x) + self.b(y)))
            return self.kind(logits=self.d(features), features=features)

    for kind in (Answer, dict):
        network = trace(Two(kind), (torch.randn(2, 4), torch.randn(2, 6)))
        assert groups(network) == {"a": 8}
        assert reasons(network)["c"] == "the model's output"
        assert (network.input_shape, network.output_shape) == ((2, 4), (2, 3))


def test_a_trace_leaves_the_model_and_the_random_state_alone():
    model = models.ResNet()
    model.train()
    model.layer1.eval()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random, example = torch.get_rng_state(), IMAGE.clone()
    trace(model, example)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(example, IMAGE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_two_traces_of_one_model_agree():
    model = models.UNet()
    first, second = trace(model, IMAGE), trace(model, IMAGE)
    assert first.layers == second.layers
    assert [group.name for group in first.groups] == [group.name for group in second.groups]


def test_an_initialisation_that_hides_errors_does_not_hide_them():
    class Hidden(nn.Module):
        """Reads its channels by number, behind a norm that starts at zero."""

        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, padding=1)
            self.b = nn.Conv2d(8, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.head = nn.Conv2d(8, 3, 1)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            x = self.a(x)
            y = self.b(x)
            y = torch.cat([y[:, y.shape[1] // 2 :], y[:, : y.shape[1] // 2]], 1)
            return self.head(x + self.norm(y * (1 + y.shape[1] % 5)))

    network = trace(Hidden(), IMAGE)
    assert not network.cuttable
    assert any("differs from the original" in reason for reason in reasons(network).values())
