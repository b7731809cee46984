"""The closed loop: solve, build, measure, correct, until the measured value is inside the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hwprune.budget import Plan
from hwprune.errors import BudgetError

AIM = 0.985  # of the budget: inside it on both sides of the noise that is left after a clean measurement


@dataclass(frozen=True)
class Trial:
    """One choice of widths, what it was predicted to cost and what it measured.

    Attributes:
        widths: group name → channels kept.
        predicted: in the unit of the budget, as the table says, uncorrected.
        measured: on the exported engine.
    """

    widths: dict[str, int]
    predicted: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where a measured value must lie, as fractions of the budget.

    Attributes:
        low: a budget is used up to at least this much.
        margin: the loop goes on until it is this far inside on both sides, as long as it finds new plans.
    """

    low: float = 0.95
    margin: float = 0.005

    def holds(self, fraction: float, margin: float = 0.0) -> bool:
        """Whether a measured fraction of the budget is inside."""
        return self.low + margin <= fraction <= 1.0 - margin


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """What the closed loop ended with.

    Attributes:
        plan: the plan to build.
        trials: everything that was measured, the dense network first.
        inside: whether the plan measured inside the window; if not, it is the closest one below the budget.
    """

    plan: Plan
    trials: tuple[Trial, ...]
    inside: bool

    @property
    def others(self) -> tuple[Trial, ...]:
        """Trials of other widths than the plan's: what a prediction of it may be corrected by."""
        return tuple(trial for trial in self.trials if trial.widths != self.plan.widths)


def correct(predicted: float, trials: Sequence[Trial]) -> float:
    """Turn a prediction into what the device would show: the ratio seen at the nearest trial."""
    nearest = min(trials, key=lambda trial: abs(trial.predicted - predicted))
    return predicted * nearest.measured / nearest.predicted


@dataclass
class ClosedLoop:
    """Finds the prediction whose plan measures just inside the budget.

    The measured value grows with the predicted one, but not in proportion: sums of isolated layers
    overshoot, and by how much depends on the network. So the loop keeps the closest trial on either
    side of the budget and takes the secant between them.

    Args:
        solve: predicted budget → best plan within it.
        measure: plan → measured value of the network cut to it.
        limit: the budget, in the unit that is measured.
        floor: the least predicted value that ``solve`` can reach.
        trials: what is known already; at least the dense network.
        window: where the result must lie.
        most: the largest number of new measurements.
    """

    solve: Callable[[float], Plan]
    measure: Callable[[Plan], float]
    limit: float
    floor: float
    trials: list[Trial]
    window: Window = field(default_factory=Window)
    most: int = 10

    def run(self) -> Settlement:
        """Measure until a plan is inside the window.

        Raises:
            BudgetError: even the smallest network measures over the budget; says what it measured.
        """
        plans: dict[tuple[tuple[str, int], ...], Plan] = {}
        for _ in range(self.most):
            plan = self._propose()
            if plan is None:
                break
            plans[_key(plan.widths)] = plan
            trial = Trial(dict(plan.widths), _predicted(plan), self.measure(plan))
            self.trials.append(trial)
            if self.window.holds(trial.measured / self.limit, self.window.margin):
                return Settlement(plan=plan, trials=tuple(self.trials), inside=True)
        within = [t for t in self.trials if t.measured <= self.limit and _key(t.widths) in plans]
        if not within:
            least = min(trial.measured for trial in self.trials)
            raise BudgetError(
                f"the budget of {self.limit:.6g} cannot be reached: the least that was measured is {least:.6g}",
                hint=f"ask for {least * 1.02:.4g} or more",
            )
        best = max(within, key=lambda trial: trial.measured)
        inside = self.window.holds(best.measured / self.limit)
        return Settlement(plan=plans[_key(best.widths)], trials=tuple(self.trials), inside=inside)

    def _propose(self) -> Plan | None:
        """A plan not measured yet, where the secant crosses the aim; None if there is none left."""
        known = {_key(trial.widths): trial for trial in self.trials}
        low, high = self._bracket()
        aim = AIM * self.limit
        at = low.predicted + (aim - low.measured) * (high.predicted - low.predicted) / (high.measured - low.measured)
        below, above = max(min(low.predicted, high.predicted), self.floor), max(low.predicted, high.predicted)
        for _ in range(12):
            at = min(max(at, below), above)
            plan = self.solve(at)
            seen = known.get(_key(plan.widths))
            if seen is None:
                return plan
            if seen.measured < aim:
                below = at
            else:
                above = at
            at = (below + above) / 2
        return None

    def _bracket(self) -> tuple[Trial, Trial]:
        """The closest trials on either side of the aim; zero cost measures zero."""
        aim = AIM * self.limit
        low = max((t for t in self.trials if t.measured <= aim), key=lambda t: t.measured, default=Trial({}, 0.0, 0.0))
        high = min((t for t in self.trials if t.measured > aim), key=lambda t: t.measured)
        return low, high


def _predicted(plan: Plan) -> float:
    return next(iter(plan.used.values()))


def _key(widths: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(widths.items()))
