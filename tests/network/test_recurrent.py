"""Recurrent layers of torch: hidden units and what they read can be cut."""

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.network import cut, trace, verify_cut

EXAMPLE = torch.randn(2, 7, 5)


class Tagger(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed, self.layer = nn.Linear(5, 8), kind(8, 6, **options)
        self.head = nn.Linear(6 * (1 + bool(options.get("bidirectional"))), 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x))[0])


class Started(nn.Module):
    """It begins where another layer says, and its last states are what is read."""

    def __init__(self):
        super().__init__()
        self.start, self.layer, self.head = nn.Linear(5, 6), nn.LSTM(5, 6, batch_first=True), nn.Linear(12, 4)

    def forward(self, x):
        start = self.start(x[:, 0]).unsqueeze(0)
        _, (hidden, memory) = self.layer(x, (start, torch.zeros_like(start)))
        return self.head(torch.cat([hidden[-1], memory[-1]], 1))


MODELS = {
    "lstm": lambda: Tagger(nn.LSTM),
    "gru": lambda: Tagger(nn.GRU, batch_first=True),
    "tanh": lambda: Tagger(nn.RNN, num_layers=2, bidirectional=True),
    "relu": lambda: Tagger(nn.RNN, nonlinearity="relu", bias=False),
    "deep": lambda: Tagger(nn.LSTM, num_layers=3, bidirectional=True, bias=False),
    "started": Started,
}


@pytest.mark.parametrize("name", MODELS)
def test_hidden_units_go_with_their_gates(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    network = trace(model, EXAMPLE)
    widths = {group.name: group.channels for group in network.cuttable}
    assert widths == ({"start": 6} if name == "started" else {"embed": 8, "layer": 6})
    rng = np.random.default_rng(0)
    for left in (1, 3, 5):
        kept = {group: sorted(rng.choice(size, left, replace=False).tolist()) for group, size in widths.items()}
        smaller = cut(model, network.cuts(kept))
        verify_cut(model, smaller, network, kept, EXAMPLE, tolerance=1e-5)
        assert (smaller.layer.hidden_size, smaller.layer.input_size) == (left, 5 if name == "started" else left)
        smaller.train()(EXAMPLE).sum().backward()
        assert all(parameter.grad is not None for parameter in smaller.parameters())
        cut(MODELS[name](), network.cuts(kept)).load_state_dict(smaller.state_dict())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_units_stay():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.LSTM(5, 6, proj_size=3), nn.Linear(3, 4)

        def forward(self, x):
            return self.head(self.layer(x)[0])

    network = trace(Projected().eval(), EXAMPLE)
    assert not network.cuttable
    assert any("no rule for the operator aten.lstm.input (lstm in layer)" in group.frozen for group in network.frozen)
