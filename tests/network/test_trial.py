"""What trying the cuts out has to find: code that is hidden, or that a lucky number of channels gets past."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import SurgeryError
from hwprune.network import cut, trace, verify_cut

from .test_tracing import IMAGE, reasons


class BehindGate(nn.Module):
    """Divides by its width, behind a gate that is next to closed (ReZero, layer scale) or a layer that is."""

    def __init__(self, gate, made=None):
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1, bias=False)
        self.gate, self.head = nn.Parameter(gate), nn.Conv2d(8, 4, 1)
        if made is not None:
            nn.init.normal_(self.down.weight, std=made)

    def forward(self, x):
        x = self.stem(x)
        y = self.up(x).relu()
        return self.head(x + self.gate * self.down(y / y.shape[1] ** 0.5))


@pytest.mark.parametrize(
    "given",
    [
        (torch.zeros(()),),
        (torch.zeros(1),),
        (torch.tensor(1e-6),),
        (torch.full((8, 1, 1), 1e-6),),
        (torch.full((6,), 1e-6),),
        (torch.ones(1), 1e-6),
    ],
)
def test_a_branch_that_is_next_to_nothing_at_first_is_tried_as_well(given):
    network = trace(BehindGate(*given), torch.randn(2, 3, 8, 8))
    assert [group.name for group in network.cuttable] == ["stem"]
    assert "differs from the original" in reasons(network)["up"]


class BehindBuffer(BehindGate):
    """The gate is a buffer, that a schedule opens while it is trained."""

    def __init__(self, gate):
        super().__init__(gate)
        del self.gate
        self.register_buffer("gate", gate)


@pytest.mark.parametrize("gate", [torch.zeros(()), torch.zeros(8, 1, 1), torch.tensor(1e-6)])
def test_a_gate_that_is_a_buffer_is_opened_as_well(gate):
    model = BehindBuffer(gate)
    network = trace(model, torch.randn(2, 3, 8, 8))
    assert "differs from the original" in reasons(network)["up"]
    assert torch.equal(model.gate, gate)


class Started(nn.Module):
    """A buffer that says whether its statistics are those of data; it is not made to be anything but 0 or 1."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.register_buffer("started", torch.zeros(()))

    def forward(self, x):
        return self.head([self.stem(x), self.stem(x).relu()][{0.0: 0, 1.0: 1}[self.started.item()]])


def test_a_buffer_that_forward_looks_at_stays_as_it_is():
    assert [group.name for group in trace(Started(), torch.randn(2, 3, 8, 8)).cuttable] == ["stem"]


class WidthFromAfar(nn.Module):
    """A view is told the width of what another layer made; between the two lie other layers."""

    def __init__(self, between):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(20, 16, 1)
        self.between = nn.Sequential(*(nn.Conv2d(16 if i == 0 else 20, 20, 1) for i in range(between)))
        self.head, self.other = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.last(self.between(x)).view(*x.shape[:2], -1).softmax(-1)
        return self.head(y.view(x.shape)), self.other(x)


@pytest.mark.parametrize("between", range(1, 8))
def test_widths_that_have_to_be_equal_are_found_however_far_apart(between):
    found = {group.name for group in trace(WidthFromAfar(between), IMAGE).cuttable}
    assert found == {f"between.{index}" for index in range(between)}


class TrainsByNumber(nn.Module):
    """All it has runs in evaluation mode; in training, it looks at some of it with a number of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
        self.level = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        x = self.stem(x) + self.level
        if self.training:
            self.spread = x.reshape(len(x), 8, -1).var(-1).mean()
        return self.head(F.dropout(self.deep(x).relu(), 0.1, self.training))


def test_what_fits_in_evaluation_mode_alone_is_not_cut():
    network = trace(TrainsByNumber(), IMAGE)
    assert [group.name for group in network.cuttable] == ["deep"]
    assert "is invalid for input of size" in reasons(network)["stem"]


class Auxiliary(nn.Module):
    """In training it returns more, and of that something is divided by its width."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1)
        self.side, self.aux, self.drop = nn.Conv2d(8, 10, 1), nn.Conv2d(10, 4, 1), drop
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.head(self.wide(x).relu())
        if not self.training:
            return y
        self.steps += 1
        side = F.dropout(self.side(x), self.drop, self.training)
        return y, self.aux(side / side.shape[1] ** 0.5)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_what_is_returned_in_training_alone_is_compared_by_value(drop, inside):
    model = nn.Sequential(Auxiliary(drop)) if inside else Auxiliary(drop)
    network = trace(model, IMAGE)
    prefix = "0." if inside else ""
    assert [group.name for group in network.cuttable] == [f"{prefix}stem", f"{prefix}wide"]
    assert "differs from the original" in reasons(network)[f"{prefix}side"]
    assert not any(buffer.any() for buffer in model.buffers())


def test_a_wrong_cut_of_what_runs_in_training_alone_is_found():
    model = Auxiliary(0.5)
    network = trace(model, IMAGE, verify=False)
    kept = {"side": [0, 2, 3, 7]}
    with pytest.raises(SurgeryError, match="differs from the original"):
        verify_cut(model, cut(model, network.cuts(kept)), network, kept, IMAGE)


class Noisy(Auxiliary):
    """What it returns in training is another every time."""

    def forward(self, x):
        y = super().forward(x)
        return (y[0], y[1] + torch.randn_like(y[1])) if self.training else y


def test_what_is_random_in_training_is_held_to_its_shape():
    network = trace(Noisy(), IMAGE)
    assert [group.name for group in network.cuttable] == ["stem", "wide", "side"]


class Fourier(nn.Module):
    """Its middle is weighted by frequency, and what it returns are frequencies."""

    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.deep, self.head = (nn.Conv2d(*sizes, 1) for sizes in ((3, 8), (8, 6), (6, 8), (8, 4)))
        self.weight = nn.Parameter(torch.randn(6, 1, 1, dtype=torch.complex64))

    def forward(self, x):
        x = torch.fft.rfft2(self.mid(self.stem(x).relu())) * self.weight
        return torch.fft.rfft2(self.head(self.deep(torch.fft.irfft2(x)).relu()))


def test_complex_numbers_stay_whole_and_can_be_compared():
    model, kept = Fourier(), {"stem": [0, 3, 4], "deep": [1, 2, 7]}
    network = trace(model, IMAGE)
    assert [group.name for group in network.cuttable] == ["stem", "deep"]
    assert "no rule for the operator aten._fft_r2c" in reasons(network)["mid"]
    smaller = cut(model, network.cuts(kept))
    verify_cut(model, smaller, network, kept, IMAGE)
    with torch.no_grad():
        smaller.deep.bias += 1
    with pytest.raises(SurgeryError, match="differs from the original"):
        verify_cut(model, smaller, network, kept, IMAGE)


class OnGraph(nn.Module):
    """A graph as a sparse matrix, that it holds or is given."""

    def __init__(self, graph):
        super().__init__()
        self.embed, self.mix, self.up, self.down = (nn.Linear(*sizes) for sizes in ((5, 8), (8, 6), (6, 12), (12, 4)))
        self.register_buffer("graph", graph)

    def forward(self, x, graph=None):
        x = self.mix(torch.sparse.mm(self.graph if graph is None else graph, self.embed(x)))
        return self.down(self.up(x).relu())


def test_sparse_matrices_stay_whole():
    x, graph = torch.randn(7, 5), torch.eye(7).to_sparse()
    for model, example in ((OnGraph(graph), x), (OnGraph(None), (x, graph))):
        network = trace(model, example)
        assert [group.name for group in network.cuttable] == ["mix", "up"]
        assert "no rule for the operator aten._sparse_addmm" in reasons(network)["embed"]


class Joined(nn.Module):
    """What it joins are maps of very different size; one of them is divided by its width."""

    def __init__(self, size):
        super().__init__()
        self.stem, self.up, self.size = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), size
        self.large, self.small = nn.Conv2d(8, 3, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.up(x).relu()
        return torch.cat([self.large(x), self.size * self.small(y / y.shape[1] ** 0.5)], 1)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-9])
def test_a_part_of_an_output_that_is_small_beside_the_rest_is_held_to_its_own_size(size):
    network = trace(Joined(size), torch.randn(2, 3, 8, 8))
    assert [group.name for group in network.cuttable] == ["stem"]
    assert "of dimension 1" in reasons(network)["up"]


class WrongWithFewChannels(nn.Module):
    """A deep network with batch norms, that are trained, in which one layer means something else in narrow networks."""

    def __init__(self):
        super().__init__()
        widths = [3, 32, 32, 32, 32, 32]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU6())
            for i, o in itertools.pairwise(widths)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == 1 and x.shape[1] < 10:
                x = x.flip(1)
        return self.head(x.mean((2, 3)))


def test_signals_come_through_batch_norms_however_few_channels_are_left():
    model = WrongWithFewChannels()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    network = trace(model, torch.randn(2, 3, 16, 16))
    assert "differs from the original" in reasons(network)["layers.1.0"]
    assert {group.name for group in network.cuttable} == {f"layers.{index}.0" for index in (0, 2, 3, 4)}


class SomeBlocks(nn.Module):
    """Residual blocks of one kind; one of them matters to what comes after it beyond what it adds."""

    def __init__(self, wrong):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1)) for _ in range(4)
        )
        self.head, self.wrong = nn.Linear(16, 4), wrong

    def forward(self, x):
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = x + block(x)
            if index == self.wrong and not isinstance(block, nn.Sequential):
                x = x.flip(1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("wrong", [None, 0, 3])
def test_blocks_are_tried_with_all_other_cuts_whichever_of_them_cannot_go(wrong):
    network = trace(SomeBlocks(wrong), IMAGE)
    assert len(network.cuttable) == 5
    assert len(network.blocks) == (4 if wrong is None else 0)
