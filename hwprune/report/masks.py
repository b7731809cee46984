"""What became of single weights and of channels, update by update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hwprune.report import figures
from hwprune.report.content import Picture, Section, Table


def mask_section(updates: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    """The section, if there were any updates.

    Args:
        updates: ``mask_updates`` of a run's document; see :mod:`hwprune.report`.
        groups: of the same document.
    """
    pictures = [*_of_channels(updates.get("channels"), groups), *_of_weights(updates.get("weights"))]
    grown = [tuple(str(one[key]) for key in ("call", "grown", "explored")) for one in updates.get("grown") or ()]
    tables = (Table(("call", "channels grown back", "channels tried out"), grown),) if grown else ()
    if pictures or tables:
        yield Section(title="Masks", pictures=tuple(pictures), tables=tables)


def _of_channels(channels: Sequence[Mapping[str, Any]] | None, groups: Sequence[Mapping[str, Any]]) -> list[Picture]:
    if not channels:
        return []
    whole = {group["name"]: group["channels"] for group in groups}
    shares = {name: [one["widths"][name] / whole[name] for one in channels] for name in channels[0]["widths"]}
    draw = partial(figures.masks, shares, [one["epoch"] for one in channels], "channels", "epoch that pruned")
    return [Picture(draw, "part of every group's channels that is active, over the epochs that pruned")]


def _of_weights(weights: Sequence[Mapping[str, Any]] | None) -> list[Picture]:
    if not weights:
        return []
    shares = {name: [update["densities"][name] for update in weights] for name in weights[0]["densities"]}
    steps = [update["step"] for update in weights]
    return [
        Picture(
            partial(figures.masks, shares, steps, "weights", "step of fine-tuning"),
            "part of every weight that is active, over the updates of the masks",
        ),
        Picture(
            partial(figures.exchange, weights),
            "overlap of masks from one update to the next, and survival of what was grown",
        ),
    ]
