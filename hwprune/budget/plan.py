"""The Plan: which channels stay, and what that was promised to cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hwprune.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to keep.

    Attributes:
        widths: group name → number of channels kept.
        kept: group name → the kept channels, sorted; empty when only widths were solved for.
        cuts: tensor name → dimension → positions kept: enough to rebuild the smaller network from a
            fresh instance of the model, without tracing; and what is rescaled with it (``Network.cuts``).
        objective: total saliency kept.
        used: budget name → predicted value (``latency_ms``, ``size_bytes``, ``macs``).
        budgets: budget name → limit it was solved for.
        solver: name of the method that made it.
        solve_s: seconds it took.
        bound: no choice of widths keeps more saliency; None where the method does not tell.
        relative_gap: (bound − objective) / bound; None likewise.
        shadow_prices: budget name → saliency that one more unit of it is worth; where the method tells.
    """

    widths: dict[str, int]
    kept: dict[str, tuple[int, ...]] = field(default_factory=dict)
    cuts: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    objective: float = 0.0
    used: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    solver: str = ""
    solve_s: float = 0.0
    bound: float | None = None
    relative_gap: float | None = None
    shadow_prices: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """The plan as a JSON document (``plan.json``)."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: not a plan, or of another schema version.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            version = document.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"plan has schema_version {version}; this hwprune reads {SCHEMA_VERSION}",
                    hint="read it with the hwprune version that wrote it",
                )
            document["kept"] = {name: tuple(kept) for name, kept in document["kept"].items()}
            document["cuts"] = {
                tensor: {int(dim): list(kept) for dim, kept in dims.items()}
                for tensor, dims in document["cuts"].items()
            }
            return cls(**document)
        except KeyError as error:
            raise InputError(f"not a plan: it has no {error}", hint="give the plan.json of a run") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"not a plan: {error}", hint="give the plan.json of a run") from error

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read ``plan.json``.

        Raises:
            InputError: the file is missing or is not a plan.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}", hint="give the plan.json of a run") from error
