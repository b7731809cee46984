"""Channels switched off instead of cut out: all their positions are zero."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hwprune.errors import InputError
from hwprune.network.network import Block, ChannelGroup, Member, Network
from hwprune.network.silence import silence
from hwprune.network.statistics import KeptStatistics
from hwprune.network.surgery import copied


def masked(model: nn.Module, network: Network, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """The dense network with the removed channels switched off.

    Args:
        model: the traced network; not modified.
        network: its trace.
        kept: group name → channels that stay; a group that is not named keeps everything, and one that keeps nothing
            is removed with its block.

    Returns:
        A deep copy in which every position of the removed channels is zero, in all parameters and in
        the statistics of normalisations (whose variance becomes one); other buffers are left as they are.
        Layer norms see the kept channels alone. Removed blocks add zeros.

    Raises:
        InputError: an unknown group, a channel that it does not have, or no channel is left of what is in no block.
    """
    result = copied(model)
    for block in network.removed(kept):
        silence(result, block)
    tensors, buffers = named_tensors(result), dict(result.named_buffers())
    for name, channels in kept.items():
        group = _cuttable(network, name)
        if not len(channels):
            continue
        gone = np.setdiff1d(np.arange(group.channels), _checked(group, channels))
        with torch.no_grad():
            for member in _switched(group, buffers) if gone.size else ():
                tensor = tensors[member.tensor]
                positions = torch.from_numpy(member.index[gone].ravel()).to(tensor.device)
                tensor.index_fill_(member.dim, positions, _empty(member.tensor))
    statistics = KeptStatistics(network.norms, network.written_norms)
    removed = network.cuts(kept) if statistics.names else {}
    statistics.kept = {name: torch.tensor(removed[name][0]) for name in statistics.names if name in removed}
    if statistics.kept:
        statistics.attach(result)
    return result


def _switched(group: ChannelGroup, buffers: Container[str]) -> list[Member]:
    """What is zero where the channel is off: all but constants, by which somebody may divide."""
    return [member for member in group.tensors if member.role != "scale" or member.tensor not in buffers]


def named_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a model, by their names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _empty(name: str) -> float:
    """The value of a position that is switched off."""
    return 1.0 if name.endswith("running_var") else 0.0


def _cuttable(network: Network, name: str) -> ChannelGroup:
    group = next((group for group in network.groups if group.name == name), None)
    if group is None or group.frozen is not None:
        reason = f"is frozen: {group.frozen}" if group else "does not exist"
        names = ", ".join(group.name for group in network.cuttable)
        raise InputError(f"group {name!r} {reason}", hint=f"groups that can be cut: {names or 'none'}")
    return group


def _checked(group: ChannelGroup, channels: Sequence[int]) -> list[int]:
    wrong = [channel for channel in channels if not 0 <= channel < group.channels]
    if wrong:
        raise InputError(
            f"group {group.name} has channels 0 to {group.channels - 1}, not {wrong[0]}",
            hint="give channels of the dense network",
        )
    return list(channels)


class Masks:
    """Which channels of a model in training are switched off.

    Call :meth:`apply` after every optimizer step. The values a channel had when it was switched off are
    kept, so that it can come back.

    Args:
        model: the traced network; parameters are changed in place.
        network: its trace.
    """

    def __init__(self, model: nn.Module, network: Network) -> None:
        self._model = model
        self._network = network
        self._alive = {group.name: torch.ones(group.channels, dtype=torch.bool) for group in network.cuttable}
        self._cuts: dict[str, list[tuple[str, Member]]] = {}  # tensor → the groups that run through it
        buffers = dict(model.named_buffers())
        for group in network.cuttable:
            for member in _switched(group, buffers):
                self._cuts.setdefault(member.tensor, []).append((group.name, member))
        self._off: dict[str, torch.Tensor] = {}  # tensor → which of its positions are switched off
        self._saved: dict[str, torch.Tensor] = {}  # tensor → the values that switched-off positions had
        self._silenced: dict[str, RemovableHandle] = {}  # block → what keeps it silent
        self._statistics = KeptStatistics(network.norms, network.written_norms)
        if self._statistics.names:
            self._statistics.attach(model)

    @property
    def kept(self) -> dict[str, list[int]]:
        """Cuttable group → channels that are alive, sorted; none of a group in a block that is switched off."""
        gone = {name for block in self._network.blocks if block.name in self._silenced for name in block.groups}
        return {name: [] if name in gone else alive for name, alive in self._channels().items()}

    def _channels(self) -> dict[str, list[int]]:
        return {name: alive.nonzero().ravel().tolist() for name, alive in self._alive.items()}

    @property
    def off(self) -> dict[str, torch.Tensor]:
        """Tensor name → which of its positions are switched off, bool; of blocks that are off, all of their tensors."""
        gone = [block for block in self._network.blocks if block.name in self._silenced]
        whole = {
            name: torch.ones(tensor.shape, dtype=torch.bool)
            for name, tensor in named_tensors(self._model).items()
            if any(block.holds(name) for block in gone)
        }
        return {name: mask.clone() for name, mask in self._off.items() if mask.any()} | whole

    def kept_plan(self) -> dict[str, dict[int, list[int]]]:
        """The cuts that make the smaller network (``Plan.cuts``)."""
        return self._network.cuts(self.kept)

    def remove(self, group: str, channels: Iterable[int]) -> None:
        """Switch channels off, from the next :meth:`apply` on; their present values are kept.

        Raises:
            InputError: unknown or frozen group, unknown channel, or nothing would be left of it.
        """
        found = _cuttable(self._network, group)
        alive = self._alive[group].clone()
        alive[_checked(found, list(channels))] = False
        if alive.sum() < found.least:
            left = "no channel" if not alive.any() else "a single channel, which forward squeezes away,"
            raise InputError(f"{left} of group {group} would be left", hint=f"keep at least {found.least}")
        self._alive[group] = alive
        tensors = named_tensors(self._model)
        for name in {member.tensor for member in found.tensors} & self._cuts.keys():
            self._refresh(name, tensors[name])

    def remove_block(self, name: str) -> None:
        """Switch a whole block off, at once; its parameters stay as they are.

        Raises:
            InputError: unknown block.
        """
        if name not in self._silenced:
            self._silenced[name] = silence(self._model, self._block(name))

    def restore_block(self, name: str) -> None:
        """Bring a block back with the channels that it had.

        Raises:
            InputError: unknown block.
        """
        self._block(name)
        if name in self._silenced:
            self._silenced.pop(name).remove()

    def _block(self, name: str) -> Block:
        found = next((block for block in self._network.blocks if block.name == name), None)
        if found is None:
            names = ", ".join(block.name for block in self._network.blocks)
            raise InputError(f"block {name!r} does not exist", hint=f"blocks that can be removed: {names or 'none'}")
        return found

    def restore(self, group: str, channels: Iterable[int]) -> None:
        """Bring channels back with the values they had when they were switched off.

        A position that another removed channel covers as well stays zero.

        Raises:
            InputError: unknown or frozen group, or unknown channel.
        """
        found = _cuttable(self._network, group)
        self._alive[group][_checked(found, list(channels))] = True
        tensors = named_tensors(self._model)
        for name in {member.tensor for member in found.tensors} & self._cuts.keys():
            back = self._refresh(name, tensors[name])
            with torch.no_grad():
                tensors[name][back.to(tensors[name].device)] = self._saved[name][back].to(tensors[name])

    def keep_only(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Of what is on, switch everything else off.

        Args:
            kept: group name → channels; a group that is not named keeps what it has, and one that keeps nothing is
                switched off with its block.

        Raises:
            InputError: as :meth:`remove`, or no channel is left of what is in no block.
        """
        for block in self._network.removed(kept):
            self.remove_block(block.name)
        for group, on in self.kept.items():
            staying = set(kept.get(group) or on)
            self.remove(group, [channel for channel in on if channel not in staying])

    def restore_all(self) -> None:
        """Bring everything back, with the values that it had when it was switched off."""
        for name in list(self._silenced):
            self.restore_block(name)
        for group, alive in self._alive.items():
            self.restore(group, range(len(alive)))

    def apply(self) -> None:
        """Set every position of the removed channels to zero (running variances to one), in place."""
        tensors = named_tensors(self._model)
        with torch.no_grad():
            for name, mask in self._off.items():
                self._off[name] = mask.to(tensors[name].device)
                tensors[name].masked_fill_(self._off[name], _empty(name))

    def _refresh(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Recompute one tensor's mask, save what is switched off only now; return what is no longer off."""
        before = self._off.get(name, torch.zeros(tensor.shape, dtype=torch.bool)).cpu()
        mask = torch.zeros(tensor.shape, dtype=torch.bool)
        for group, member in self._cuts[name]:
            gone = (~self._alive[group]).numpy()
            if gone.any():
                mask.index_fill_(member.dim, torch.from_numpy(member.index[gone].ravel()), True)
        new = mask & ~before
        saved = self._saved.setdefault(name, torch.zeros(tensor.shape, dtype=tensor.dtype))
        saved[new] = tensor.detach().cpu()[new]
        self._off[name] = mask
        if name in self._statistics.names:
            self._statistics.kept[name] = (~mask).nonzero().ravel()
        return before & ~mask

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors: which channels are alive, the values of those that are not, which blocks are off."""
        return {
            "kept": self._channels(),
            "silenced": sorted(self._silenced),
            "saved": {name: saved.clone() for name, saved in self._saved.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave; call :meth:`apply` afterwards.

        Raises:
            InputError: groups, channels or blocks that this network does not have.
        """
        for name in set(self._silenced) - set(state["silenced"]):
            self.restore_block(name)
        for name in state["silenced"]:
            self.remove_block(name)
        for name, alive in self._alive.items():
            alive[:] = name not in state["kept"]
        for name, channels in state["kept"].items():
            self._alive[name][_checked(_cuttable(self._network, name), channels)] = True
        tensors = named_tensors(self._model)
        for name in self._cuts:
            self._refresh(name, tensors[name])
        self._saved = {name: saved.clone().cpu() for name, saved in state["saved"].items()}
