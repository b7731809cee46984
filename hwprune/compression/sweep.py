"""Several budgets, one after the other: what a model's accuracy comes to at each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hwprune.budget import parse_budget
from hwprune.compression.config import METRICS, CompressConfig, read_config
from hwprune.compression.folder import RunFolder, cannot_write
from hwprune.compression.pipeline import Run, compress, resumed_config
from hwprune.compression.progress import Progress
from hwprune.errors import InputError
from hwprune.files import write_json
from hwprune.training import launched, processes

SCHEMA_VERSION = 1
FILE = "sweep.json"


class Sweep:
    """A folder of runs that differ in one budget; the latency table is measured once.

    Args:
        config: of the run with the first value.
        budget: which budget differs: ``latency``, ``size``, ``memory`` or ``macs``.
        values: of it, as a user writes them; every run's folder is named like its value.

    Raises:
        InputError: fewer than two values, one of them twice, or one that is no budget.
    """

    def __init__(self, config: CompressConfig, budget: str, values: Sequence[str]) -> None:
        if len(values) < 2 or len(set(values)) < len(values):
            raise InputError(
                f"--{budget} {','.join(values)} does not name several budgets", hint="such as --latency 0.8x,0.6x,0.4x"
            )
        for value in values:
            parse_budget(METRICS[budget], value)
        self.config, self.budget, self.values = config, budget, tuple(values)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Sweep | None:
        """The sweep that settings ask for: one budget has several values, with commas between; None if none has.

        Raises:
            InputError: two have, or something else is wrong with the settings.
        """
        several = [name for name in METRICS if "," in str(settings.get(name) or "")]
        if not several:
            return None
        if len(several) > 1:
            raise InputError(f"{' and '.join(several)} have several values", hint="give one budget several values")
        values = [value.strip() for value in settings[several[0]].split(",")]
        return cls(read_config({**settings, several[0]: values[0]}), several[0], values)

    @classmethod
    def load(cls, folder: Path) -> Sweep | None:
        """The sweep in a folder; None if there is none.

        Raises:
            InputError: it cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {document['schema_version']}")
            settings, budget, values = dict(document["config"]), document["budget"], list(document["values"])
            if budget not in METRICS:
                raise ValueError(f"budget {budget!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read: {error}", hint="it was edited or damaged") from error
        return cls(read_config({**settings, "output": folder}), budget, values)

    @property
    def folder(self) -> Path:
        """Where the runs are."""
        return self.config.output

    def run(self, *, resume: bool = False, progress: Progress | None = None) -> list[Run]:
        """Compress to every value; runs that are finished are taken as they are.

        Raises:
            InputError: anything wrong with what was given, or a value out of reach.
            MeasurementError: the device was too busy to be measured.
        """
        with launched() as here:
            if not resume:
                here.from_first(self._begin)
            return self._runs(progress)

    def _begin(self) -> None:
        RunFolder.check_free(self.folder)
        document = {"budget": self.budget, "values": list(self.values), "config": self.config.resolved()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FILE, {"schema_version": SCHEMA_VERSION, **document})
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _runs(self, progress: Progress | None) -> list[Run]:
        runs: list[Run] = []
        for value in self.values:
            output = self.folder / value
            if progress:
                progress.say(f"--{self.budget} {value}, in {output}")
            if processes().from_first((output / "run.json").exists):
                runs.append(compress(resumed_config(output), resume=True, progress=progress))
                continue
            table = processes().from_first(partial(_table_of, runs))
            changed = {self.budget: value, "output": output, "table": self.config.table or table}
            runs.append(compress(self.config.model_copy(update=changed), progress=progress))
        return runs


def _table_of(runs: Sequence[Run]) -> Path | None:
    return next((run.path / "table.json" for run in runs if (run.path / "table.json").exists()), None)
