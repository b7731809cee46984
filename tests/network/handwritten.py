"""A notation for channel groups, so that a person can write them out beside a module.

A member is written ``tensor:dim``. ``+layer`` stands for what makes a channel (``layer.weight:0 layer.bias:0``),
``-layer`` for what reads it (``layer.weight:1``), ``~norm`` for the four tensors of a batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hwprune.network import ChannelGroup, Network, cut, verify_cut

TOLERANCE = 1e-5
Positions = Sequence[int] | Sequence[Sequence[int]]
Channels = list[tuple[tuple[str, tuple[int, ...]], ...]]  # sorted: of every channel its positions in every member


@dataclass(frozen=True, eq=False)
class Case:
    """A module, an example for it, and what a person says can be cut: group → its channels; group → why not."""

    module: type[nn.Module]
    example: Tensor
    cuttable: Mapping[str, Channels]
    frozen: Mapping[str, str]

    def model(self) -> nn.Module:
        """The same one every time, with nothing in it that would hide a wrong cut: no two channels are alike."""
        torch.manual_seed(0)
        return awakened(self.module())


CASES: list[Case] = []


def case(
    example: Tensor, *, cuttable: Mapping[str, Channels] | None = None, frozen: Mapping[str, str]
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Put a module on the table."""

    def register(module: type[nn.Module]) -> type[nn.Module]:
        CASES.append(Case(module, example, cuttable or {}, frozen))
        return module

    return register


def channels(count: int, members: str = "", placed: Mapping[str, Positions] | None = None) -> Channels:
    """A group.

    Args:
        count: how many channels.
        members: of which channel c has position c.
        placed: members → one position or several per channel, in order.
    """
    columns = {name: [(c,) for c in range(count)] for name in _members(members)}
    for names, positions in (placed or {}).items():
        rows = [tuple(sorted(np.atleast_1d(row).tolist())) for row in positions]
        assert len(rows) == count, f"{names} has {len(rows)} rows for {count} channels"
        columns.update(dict.fromkeys(_members(names), rows))
    return sorted(tuple(sorted((name, rows[c]) for name, rows in columns.items())) for c in range(count))


def _members(text: str) -> Iterable[str]:
    for word in text.split():
        kind, name = word[0], word[1:]
        if kind == "+":
            yield from (f"{name}.weight:0", f"{name}.bias:0")
        elif kind == "-":
            yield f"{name}.weight:1"
        elif kind == "~":
            yield from (f"{name}.{tensor}:0" for tensor in ("weight", "bias", "running_mean", "running_var"))
        else:
            yield word


def runs(count: int, size: int, start: int = 0) -> list[list[int]]:
    """Channel c has the positions that follow one another: [[0, 1], [2, 3], …]."""
    return [list(range(start + c * size, start + (c + 1) * size)) for c in range(count)]


def parts(count: int, times: int) -> list[list[int]]:
    """Channel c has one position in each of several equal parts: [[0, 4, 8], [1, 5, 9], …]."""
    return [[c + count * part for part in range(times)] for c in range(count)]


def ends(inputs: str, outputs: str, *, flat: bool = False) -> dict[str, str]:
    """The layers at both ends, which are frozen in every model; ``flat`` if it begins with linear layers on tokens."""
    read = "the result of view in {0}, whose size is fixed (addmm in {0})" if flat else "the network's input"
    return {
        **{f"input of {name}": f"reads {read.format(name)}" for name in inputs.split()},
        **dict.fromkeys(outputs.split(), "the model's output"),
    }


def as_written(group: ChannelGroup) -> Channels:
    """A group that hwprune found, in the same form."""
    return sorted(
        tuple(
            sorted(
                (f"{member.tensor}:{member.dim}", tuple(sorted(member.index[c].tolist()))) for member in group.members
            )
        )
        for c in range(group.channels)
    )


def awakened(model: nn.Module) -> nn.Module:
    """With random numbers for every floating tensor whose elements are all equal; variances stay positive."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and (tensor == tensor.flatten()[0]).all():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))


def check_groups(case: Case, network: Network) -> None:
    """What hwprune says is what a person says."""
    found = {group.name: as_written(group) for group in network.cuttable}
    reasons = {group.name: group.frozen for group in network.frozen}
    wanted = {name: len(group) for name, group in case.cuttable.items()}
    assert {name: len(group) for name, group in found.items()} == wanted, reasons
    for name, group in case.cuttable.items():
        assert found[name] == group
    assert reasons.keys() == case.frozen.keys()
    assert {name: why for name, why in reasons.items() if case.frozen[name] not in why} == {}


def check_random_cuts(case: Case, network: Network, *, draws: int = 5) -> None:
    """Cut at random, and at last down to one channel of everything; each time it is the masked original."""
    model = case.model()
    generator = torch.Generator().manual_seed(1)
    for draw in range(draws):
        kept = {}
        for group in network.cuttable:
            count = 1 if draw == draws - 1 else int(torch.randint(1, group.channels + 1, (), generator=generator))
            kept[group.name] = sorted(torch.randperm(group.channels, generator=generator)[:count].tolist())
        smaller = cut(model, network.cuts(kept))
        report = verify_cut(model, smaller, network, kept, case.example, tolerance=TOLERANCE)
        assert report.parameters == report.expected_parameters <= network.total_parameters
