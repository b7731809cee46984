"""The latency table of a target: measured layers, and the latency of any layer between them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprune import device_runner
from hwprune.errors import InputError, MissingLatencyError, TableError
from hwprune.files import write_atomic
from hwprune.latency.curve import Curve
from hwprune.latency.entry import Entry, Floats, HeldOut
from hwprune.latency.fusion import FusionRules, Question
from hwprune.latency.key import Key, key_of
from hwprune.latency.layer import Layer
from hwprune.latency.reading import SCHEMA_VERSION, read_table
from hwprune.targets import Target, runtime_for


@dataclass(frozen=True)
class Lookup:
    """Latency of one layer alone.

    Attributes:
        latency_ms: median of one call, not yet multiplied by the table's scale.
        interpolated: it stands between measured channel counts.
    """

    latency_ms: float
    interpolated: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """Measured latencies of layers on one target. The format on disk: ``latency_tables/README.md``.

    Attributes:
        target: device, runtime, precision, batch and threads it was measured at.
        device: the device's fingerprint.
        protocol: how it was measured.
        channel_step: channel counts between two multiples of it cost as much as the upper one.
        scale: a network takes this times the sum of its layers; 1 where these were measured in networks.
        scale_source: where ``scale`` comes from.
        overhead_ms: what a call costs besides its layers.
        entries: one per kind of layer.
        fusion: what was observed to run inside another layer's kernel, and what was not.
        curve: from the sum of a network's layers to the network.
        held_out: errors on networks that the table was tested on while it was measured; None if it was not.
    """

    target: Target
    device: dict[str, Any]
    protocol: dict[str, Any]
    channel_step: int
    scale: float
    scale_source: dict[str, Any]
    entries: tuple[Entry, ...]
    overhead_ms: float = 0.0
    fusion: Mapping[Question, bool] = field(default_factory=dict)
    held_out: HeldOut | None = None
    curve: Curve = field(default_factory=Curve)

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table strictly.

        Raises:
            TableError: the file cannot be read, or is not exactly a table; names the file and the place.
        """
        return cls(**read_table(Path(path)))

    def save(self, path: Path | str) -> None:
        """Write the table; the file appears whole or not at all."""
        write_atomic(Path(path), self.to_json())

    def to_json(self) -> str:
        """The table as JSON, one line per entry."""
        head = {
            "schema_version": SCHEMA_VERSION,
            "target": self.target.to_dict(),
            "device": self.device,
            "protocol": self.protocol,
            "channel_step": self.channel_step,
            "scale": self.scale,
            "scale_source": self.scale_source,
            "overhead_ms": float(f"{self.overhead_ms:.6g}"),
            "curve": {name: float(f"{value:.6g}") for name, value in vars(self.curve).items()},
            "held_out": self.held_out and {name: list(values) for name, values in vars(self.held_out).items()},
            "fusion": self.fuses.to_list(),
        }
        lines = [json.dumps(entry.to_dict(), allow_nan=False) for entry in self.entries]
        top = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
        return f'{top},\n "entries": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n ]\n}\n"

    @property
    def fuses(self) -> FusionRules:
        """What runs inside what on this target."""
        return FusionRules(runtime_for(self.target), self.fusion)

    @cached_property
    def _by_identity(self) -> dict[str, Entry]:
        return {entry.key.identity: entry for entry in self.entries}

    @cached_property
    def _by_layer(self) -> dict[str, Entry]:
        """For what was measured with other operators fused into it only: the entry that rests on most measurements."""
        ranked = sorted(self.entries, key=lambda entry: int(entry.repeats.sum()))
        return {entry.key.alone: entry for entry in ranked}

    def lookup(self, layer: Layer, sizes: tuple[int, ...], fused: tuple[str, ...] = ()) -> Lookup:
        """Latency of a layer alone.

        Args:
            layer: any layer; only its name is not part of the key.
            sizes: channel counts along the axes of its key (:func:`hwprune.latency.sizes_of`).
            fused: operators that run inside its kernel.

        Raises:
            MissingLatencyError: the table has no such layer, or a count is outside what was measured.
            InputError: a count is below 1.
        """
        values, interpolated = self.grid(layer, tuple((size,) for size in sizes), fused)
        return Lookup(float(values.item()), bool(interpolated.item()))

    def grid(
        self, layer: Layer, sizes: Sequence[Sequence[int]], fused: tuple[str, ...] = ()
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Latencies of a layer alone over the product of channel counts.

        Args:
            layer: any layer.
            sizes: counts along each axis of its key.
            fused: operators that run inside its kernel; where the layer was measured with other ones only, it is taken
                to cost the same.

        Returns:
            latencies in ms and whether each is interpolated, both of shape ``tuple(len(s) for s in sizes)``.

        Raises:
            MissingLatencyError: the table has no such layer, or a count is outside what was measured.
            InputError: a count is below 1.
        """
        key = key_of(layer, fused)
        entry = self._by_identity.get(key.identity) or self._by_layer.get(key.alone)
        if entry is None:
            raise self._missing_key(layer, key)
        counts = tuple(np.asarray(axis, dtype=np.int64) for axis in sizes)
        if any((axis < 1).any() for axis in counts):
            raise InputError(
                f"layer {layer.name} would have {min(int(axis.min()) for axis in counts)} channels",
                hint="a layer keeps at least 1 channel",
            )
        try:
            return entry.at(counts, self.channel_step)
        except IndexError as error:
            axis, size = error.args
            measured = ", ".join(str(count) for count in entry.sizes[axis])
            raise MissingLatencyError(
                f"layer {layer.name}: {key.axes[axis]} of {size} is outside what was measured ({measured}) for {key}",
                hint=self._profile_hint(),
            ) from None

    def _missing_key(self, layer: Layer, key: Key) -> MissingLatencyError:
        # Entries of the same operator are nearer than any other; among them, those written most alike.
        same = [str(entry.key) for entry in self.entries if entry.key.op == key.op]
        near = difflib.get_close_matches(str(key), same or [str(entry.key) for entry in self.entries], n=2, cutoff=0.0)
        nearest = f"; nearest: {'; '.join(near)}" if near else "; it has no entries at all"
        return MissingLatencyError(
            f"layer {layer.name}: the latency table has no entry for {key}{nearest}", hint=self._profile_hint()
        )

    def _profile_hint(self) -> str:
        target = self.target
        return (
            "measure it on the device: hwprune profile --model MODEL --input-shape SHAPE "
            f"--target {target.name} --threads {target.threads} --precision {target.precision} --batch {target.batch} "
            "--output TABLE.json"
        )

    def check(self, target: Target, fingerprint: Mapping[str, Any] | None) -> None:
        """Refuse to use the table for another target or device.

        Args:
            target: what the table is to be used for.
            fingerprint: of the device at hand; None when it is out of reach.

        Raises:
            TableError: says everything that differs.
        """
        differing = [
            f"{name} {getattr(self.target, name)} (asked for: {getattr(target, name)})"
            for name in ("runtime", "precision", "threads", "batch")
            if getattr(self.target, name) != getattr(target, name)
        ]
        if fingerprint is not None:
            differing += [
                f"a device whose {name} is {self.device.get(name)} (here: {fingerprint.get(name)})"
                for name in device_runner.same_device(self.device, fingerprint)
            ]
        if differing:
            raise TableError(
                f"the latency table was measured for {'; '.join(differing)}",
                hint="give the table of this target, or measure one with hwprune profile",
            )
