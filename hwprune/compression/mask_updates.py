"""What became of the masks while a network was pruned, kept in ``run.json`` under ``mask_updates``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwprune.compression.folder import RunFolder
from hwprune.pruning import BudgetPruner
from hwprune.regrow import ExploringPruner, MaskUpdate


def note_channels(run: RunFolder, pruner: BudgetPruner) -> None:
    """Widths after every epoch that pruned, and how many channels every cycle of IEE grew back."""
    epochs = [event for event in run.history() if event["event"] == "prune_epoch"]
    found = [{"epoch": event["epoch"], "widths": event["widths"]} for event in epochs]
    grown = pruner.grown if isinstance(pruner, ExploringPruner) else []
    _note(run, channels=found, grown=grown)


def note_weights(run: RunFolder, updates: Sequence[MaskUpdate]) -> None:
    """One record per update of the masks over single weights."""
    _note(run, weights=[update.to_dict() for update in updates])


def _note(run: RunFolder, **records: list[dict[str, Any]]) -> None:
    run.document["mask_updates"] = {**run.document.get("mask_updates", {}), **records}
