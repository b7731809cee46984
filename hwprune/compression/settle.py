"""The closed loop: solve, build, measure, correct, until the measured value is inside the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import cast

import numpy as np
from numpy.typing import NDArray

from hwprune.budget import Metric, Plan, Problem, solve, spell
from hwprune.errors import BudgetError, InfeasibleError

AIM = 0.975  # of the budget: inside it on both sides of the noise that is left after a clean measurement
SECANTS = 3  # networks proposed by the secant, before widths are changed one by one
HELD = 0.97  # of a budget: another one that is so full keeps the solver from using it up
REACH = 6  # times two widths that are changed at once, at most


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
        margin: the loop goes on until it is this far inside on both sides, as long as it finds new plans; 0
            says that readings are exact, and one is enough.
    """

    low: float = 0.95
    margin: float = 0.01

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
    """Turn a prediction into what the device would show: linear between the trials on either side of it."""
    known = sorted((trial.predicted, trial.measured) for trial in trials)
    if predicted > known[-1][0]:
        return predicted * known[-1][1] / known[-1][0]
    return float(np.interp(predicted, [0.0, *(p for p, _ in known)], [0.0, *(m for _, m in known)]))


@dataclass
class ClosedLoop:
    """Finds a plan that measures just inside the budget.

    The first networks are the solver's own, at predictions chosen by the secant between the closest trials on
    either side of the budget: sums of isolated layers overshoot, and by how much depends on the network. What is
    left after that is how a particular choice of widths differs from its prediction, and no prediction gets
    past it; so later networks are changed by a width or two from the one that measured closest.

    Args:
        problem: the budget that is measured comes first, and its limit is not used; the others must hold as predicted.
        measure: plan → measured value of the network cut to it.
        limit: the budget, in the unit that is measured.
        trials: what is known already; at least the dense network, at best the smallest one too.
        window: where the result must lie.
        most: the largest number of new networks.
        solver: what chooses widths.
    """

    problem: Problem
    measure: Callable[[Plan], float]
    limit: float
    trials: list[Trial]
    window: Window = field(default_factory=Window)
    most: int = 12
    solver: Callable[[Problem], Plan] = solve

    def run(self) -> Settlement:
        """Measure until a plan is inside the window (twice, where readings scatter).

        Raises:
            BudgetError: everything measured over the budget; says the least.
        """
        for turn in range(self.most):
            plan = (self._by_secant() if turn < SECANTS else None) or self._beside_closest()
            if plan is None:
                break
            value = self.measure(plan)
            if self.window.margin and self._settled(value):
                value = (value + self.measure(plan)) / 2  # a lucky reading is not a promise
            self.trials.append(Trial(dict(plan.widths), self._predicted(plan), value))
            if self._settled(value):
                return Settlement(plan=plan, trials=tuple(self.trials), inside=True)
            if value <= self.limit and self._held_by_others(plan):
                return Settlement(plan=plan, trials=tuple(self.trials), inside=False)
        return self._best()

    def _held_by_others(self, plan: Plan) -> bool:
        """Whether other budgets keep the solver from using this one up."""
        asked = plan.budgets[self._metric]
        full = any(plan.used[name] >= HELD * limit for name, limit in plan.budgets.items() if name != self._metric)
        return full and plan.used[self._metric] < HELD * asked

    def _settled(self, value: float) -> bool:
        return self.window.holds(value / self.limit, self.window.margin)

    def _best(self) -> Settlement:
        """Without a plan safely inside the window: the one inside it, or else the closest below the budget."""
        within = [trial for trial in self.trials if trial.measured <= self.limit and self._offered(trial.widths)]
        if not within:
            least = min(trial.measured for trial in self.trials)
            raise BudgetError(
                f"the budget of {spell(self._metric, self.limit)} cannot be reached: "
                f"the least that was measured is {spell(self._metric, least)}",
                hint=f"ask for {spell(self._metric, least * 1.05)} or more",
            )
        best = min(within, key=lambda trial: abs(trial.measured - AIM * self.limit))
        inside = self.window.holds(best.measured / self.limit)
        return Settlement(plan=self._plan(best.widths), trials=tuple(self.trials), inside=inside)

    def _by_secant(self) -> Plan | None:
        """The solver's plan where the secant crosses the aim; None if it was measured already."""
        aim = AIM * self.limit
        low = max((t for t in self.trials if t.measured <= aim), key=lambda t: t.measured, default=Trial({}, 0.0, 0.0))
        high = min((t for t in self.trials if t.measured > aim), key=lambda t: t.measured)
        at = low.predicted + (aim - low.measured) * (high.predicted - low.predicted) / (high.measured - low.measured)
        metric = self._metric
        try:
            plan = self.solver(
                replace(
                    self.problem,
                    budgets={**self.problem.budgets, metric: max(at, self.problem.least()[metric] * (1 + 1e-6))},
                )
            )
        except InfeasibleError:
            return None
        return plan if self._is_news(plan.widths, self._predicted(plan)) else None

    def _beside_closest(self) -> Plan | None:
        """A plan not measured yet, a few widths away from the closest trial, that should measure inside.

        The closer two plans are, the better one tells of the other. Of several plans that fit, the one that
        keeps most saliency.
        """
        known = [trial for trial in self.trials if self._offered(trial.widths)]
        if not known:
            return None
        start = min(known, key=lambda trial: abs(trial.measured - AIM * self.limit))
        rate, widths, nearest = start.measured / start.predicted, start.widths, None
        for _ in range(REACH):
            beside = [w for w in self._changed(widths) if not self._seen(w)]
            if not beside:
                break
            columns = {group: np.array([w[group] for w in beside]) for group in widths}
            predicted = self.problem.evaluate_each(self._metric, columns)
            expected = (start.measured + rate * (predicted - start.predicted)) / self.limit
            allowed = self._within_others(columns)
            news = [fits and self._is_news(w, float(p)) for w, p, fits in zip(beside, predicted, allowed, strict=True)]
            inside = [self.window.holds(e, 2 * self.window.margin) for e in expected]
            fitting = [w for w, new, fits in zip(beside, news, inside, strict=True) if new and fits]
            if fitting:
                return self._plan(max(fitting, key=self.problem.objective))
            closest = int(np.abs(expected - AIM).argmin())
            widths = beside[closest]
            nearest = widths if news[closest] else nearest
        return None if nearest is None else self._plan(nearest)

    def _within_others(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Which candidates hold the budgets that are not measured here."""
        others = {name: limit for name, limit in self.problem.budgets.items() if name != self._metric}
        held = [self.problem.evaluate_each(name, columns) <= limit for name, limit in others.items()]
        count = len(next(iter(columns.values())))
        within: NDArray[np.bool_] = np.logical_and.reduce([np.ones(count, dtype=np.bool_), *held])
        return within

    def _changed(self, widths: Mapping[str, int]) -> list[dict[str, int]]:
        """All widths that differ in one group or two, by one step each."""
        steps = []
        for group, choices in self.problem.groups.items():
            if not widths[group]:
                continue  # removed with its block
            place = choices.widths.index(widths[group])
            steps += [(group, choices.widths[i]) for i in (place - 1, place + 1) if 0 <= i < len(choices.widths)]
        pairs = [dict(pair) for pair in combinations(steps, 2) if pair[0][0] != pair[1][0]]
        return [{**widths, **change} for change in [*(dict([step]) for step in steps), *pairs]]

    def _plan(self, widths: Mapping[str, int]) -> Plan:
        used = self.problem.evaluate(widths)
        return Plan(
            widths=dict(widths),
            objective=self.problem.objective(widths),
            used=used,
            budgets={self._metric: used[self._metric]},
            solver="by measurement",
        )

    def _offered(self, widths: Mapping[str, int]) -> bool:
        gone = {group for group in self.problem.removable if widths.get(group) == 0}
        return all(group in gone or widths.get(group) in c.widths for group, c in self.problem.groups.items())

    def _is_news(self, widths: Mapping[str, int], predicted: float) -> bool:
        """Whether measuring these widths could show anything new: exact readings follow the prediction."""
        known = not self.window.margin and any(np.isclose(predicted, t.predicted, 1e-12) for t in self.trials)
        return not known and not self._seen(widths)

    def _seen(self, widths: Mapping[str, int]) -> bool:
        return any(trial.widths == widths for trial in self.trials)

    def _predicted(self, plan: Plan) -> float:
        return plan.used[self._metric]

    @property
    def _metric(self) -> Metric:
        return cast(Metric, next(iter(self.problem.budgets)))
