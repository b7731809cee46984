"""A latency table for a torch model: its prunings are exported, and timed on the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from torch import nn

from hwprune.deploy.attribution import layers_of_program
from hwprune.deploy.export import exported_bytes
from hwprune.deploy.formats import from_onnx, null_engine, probe_engines, torch_archive, torch_program
from hwprune.deploy.template import template
from hwprune.errors import InputError
from hwprune.latency import (
    Bench,
    LatencyTable,
    NetworkProfiler,
    Subject,
    probe_model,
    profile_alone,
)
from hwprune.latency.bench import PROBES
from hwprune.network import Network, cut
from hwprune.network.forward import Example
from hwprune.targets import Target, runtime_for
from hwprune.targets.connection import UnpackedConnection, connect, pack

Method = Literal["in-context", "alone"]
Progress = Callable[[int, int, str], None]
PACKED_NETWORKS = 64


def profile_model(
    model: nn.Module,
    example: Example,
    network: Network,
    target: Target,
    *,
    method: Method = "in-context",
    points: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure a latency table that covers a model and everything it can be cut to.

    Args:
        model: the dense model; its weights do not matter.
        example: the input, batch first.
        network: the model's trace.
        target: a device that can be reached.
        method: ``in-context``, from whole networks of many widths; ``alone``, every kind of layer by itself.
        points: of method ``alone``: samples per channel dimension of a layer.
        seed: of random inputs, widths and the order of measurements.
        progress: called with (done, of how many, what is next).

    Raises:
        MeasurementError: the device is too busy.
        InputError: the target cannot be measured.
        ModelError: the model cannot be exported or opened.
    """
    if method == "alone":
        if target.precision != "fp32":
            raise InputError(
                f"layers alone are measured in fp32, and target {target.name!r} is for {target.precision}",
                hint="measure in whole networks, --method in-context",
            )
        with connect(target, null=null_engine(target), anchor=probe_model(target)) as connection:
            bench, dense = Bench(target, connection, seed=seed), exported_bytes(model, example)
            return profile_alone(network.layers, bench, points=points, progress=progress, dense=dense)
    subject = subject_of(model, example, network, target, seed=seed)
    with connect(target, null=subject.null, anchor=subject.anchor) as connection:
        return NetworkProfiler(subject, target, seed=seed).live(connection, progress=progress)


def pack_model(model: nn.Module, example: Example, network: Network, target: Target, path: Path, *, seed: int) -> int:
    """Write a kit for a device that cannot be reached from here.

    Returns:
        how many visits it asks for.

    Raises:
        ModelError: the model cannot be exported.
        InputError: the file cannot be written.
    """
    subject = subject_of(model, example, network, target, seed=seed)
    profiler = NetworkProfiler(subject, target, seed=seed)
    try:
        pack(profiler.visits(PACKED_NETWORKS), target, null=subject.null, anchor=subject.anchor, path=path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", hint="choose a folder with space and write permission"
        ) from error
    return PROBES + PACKED_NETWORKS


def unpack_model(
    model: nn.Module, example: Example, network: Network, target: Target, results: Path, *, seed: int
) -> LatencyTable:
    """Make a table from what a kit's worker wrote.

    Raises:
        InputError: the results are malformed, incomplete, or of another kit.
    """
    subject = subject_of(model, example, network, target, seed=seed)
    connection = UnpackedConnection(results, target, null=subject.null, anchor=subject.anchor)
    return NetworkProfiler(subject, target, seed=seed).packed(connection, PACKED_NETWORKS)


def subject_of(model: nn.Module, example: Example, network: Network, target: Target, *, seed: int = 0) -> Subject:
    """The model as something that can be built at any widths.

    Raises:
        ModelError: the model cannot be exported.
    """
    build, covers = _builder(model, example, network, target, seed)
    return Subject(
        layers=network.layers,
        channels={group.name: group.channels for group in network.cuttable},
        frozen={group.name: group.channels for group in network.frozen},
        build=build,
        covers=covers if runtime_for(target).kernels else {},
        null=null_engine(target),
        probes=probe_engines(target),
        positions={group.name: group.positions for group in network.cuttable},
    )


def _builder(
    model: nn.Module, example: Example, network: Network, target: Target, seed: int
) -> tuple[Callable[[Mapping[str, int]], bytes], Mapping[str, str]]:
    """What makes the network of any widths in the runtime's format, and the layer of every node of it."""
    if runtime_for(target).model_format == "torch":
        program = torch_program(model, example)

        def cut_and_exported(widths: Mapping[str, int]) -> bytes:
            kept = {group.name: list(range(widths[group.name])) for group in network.cuttable}
            return torch_archive(cut(model, network.cuts(kept)), example)

        return cut_and_exported, layers_of_program(program, network.layers)
    made = template(model, example, network, precision=target.precision, seed=seed)
    return lambda widths: from_onnx(made.at(widths), target), made.covers
