"""What an engine loses against the model it was made from, on the same samples, and how much it may."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from torch import nn

from hwprune.deploy.engine import Engine, predictor
from hwprune.errors import InputError
from hwprune.training import ClassificationTask, Data, Task, evaluate, evaluate_model
from hwprune.training.evaluation import hits, hits_of_model

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Gates:
    """How much worse than the source an engine may be; what is None is not asked.

    Attributes:
        max_degradation: in the unit of the metric: 0.01 of accuracy is one percentage point.
        percent_max_degradation: in per cent of the source's metric.

    Raises:
        InputError: a negative number, or none.
    """

    max_degradation: float | None = None
    percent_max_degradation: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value!r}", hint="it is 0 or more")

    @property
    def asked(self) -> bool:
        """Whether there is any."""
        return self.max_degradation is not None or self.percent_max_degradation is not None

    def allowed(self, source: float) -> float:
        """The most that may be lost of a source's metric; the stricter of two, infinite without a gate."""
        absolute = math.inf if self.max_degradation is None else self.max_degradation
        percent = self.percent_max_degradation
        return min(absolute, math.inf if percent is None else abs(source) * percent / 100)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


INT8 = Gates(max_degradation=0.01)  # where none is given: parity says nothing about 8 bits


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Metric of an engine and of its source on the validation set.

    Attributes:
        metric: its name.
        source: of the torch model.
        artifact: of the engine.
        lost: by how much the engine is worse; negative where it is better.
        low: lower end of the 95 % confidence interval of ``lost``; None for a task that tells one number only.
        high: upper end.
        p_value: of McNemar's exact test that neither is right more often than the other; None likewise.
        samples: in the validation set; None likewise.
    """

    metric: str
    source: float
    artifact: float
    lost: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    samples: int | None = None

    def passes(self, gates: Gates) -> bool:
        """Whether no more is lost than the gates allow; the interval is evidence, the number itself decides."""
        return self.lost <= gates.allowed(self.source) + 1e-9

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


class Judge:
    """Holds engines against the torch model they were made from, sample by sample where the task allows that.

    Args:
        model: the source, in evaluation mode.
        data: its validation set.
        task: says what is measured.
    """

    def __init__(self, model: nn.Module, data: Data, task: Task) -> None:
        self._data, self._task = data, task
        self._source = self._of_model(model)

    def degradation(self, engine: Engine) -> Degradation:
        """What an engine, as its runtime opened it, loses against the source."""
        if isinstance(self._task, ClassificationTask):
            return self._compared(hits(predictor(engine), self._data, self._task))
        return self._compared(evaluate(predictor(engine), self._data, self._task))

    def degradation_of(self, model: nn.Module) -> Degradation:
        """What another torch model loses against the source."""
        return self._compared(self._of_model(model))

    def _of_model(self, model: nn.Module) -> float | NDArray[np.bool_]:
        if isinstance(self._task, ClassificationTask):
            return hits_of_model(model, self._data, self._task)
        return evaluate_model(model, self._data, self._task)

    def _compared(self, found: float | NDArray[np.bool_]) -> Degradation:
        if isinstance(self._source, np.ndarray) and isinstance(found, np.ndarray):
            return paired(self._source, found, metric=self._task.metric)
        source, artifact = float(self._source), float(found)
        lost = source - artifact if self._task.higher_is_better else artifact - source
        return Degradation(metric=self._task.metric, source=source, artifact=artifact, lost=lost)


def paired(source: NDArray[np.bool_], artifact: NDArray[np.bool_], *, metric: str = "accuracy") -> Degradation:
    """Two classifiers on the same samples.

    The interval is the adjusted Wald interval for a difference of paired proportions, one made-up sample added to each
    way of disagreeing, so that it does not shrink to nothing where they never disagree (Bonett and Price, Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data, Journal of Educational and
    Behavioral Statistics 37, 2012). The test is McNemar's, exact.

    Args:
        source: for every sample whether it was right, (N,).
        artifact: likewise, (N,).
        metric: its name.
    """
    count, worse, better = len(source), int((source & ~artifact).sum()), int((~source & artifact).sum())
    more, less = (worse + 1) / (count + 2), (better + 1) / (count + 2)
    middle = more - less
    reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((more + less - middle**2) / (count + 2))
    return Degradation(
        metric=metric,
        source=float(source.mean()),
        artifact=float(artifact.mean()),
        lost=(worse - better) / count,
        low=max(middle - reach, -1.0),
        high=min(middle + reach, 1.0),
        p_value=float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0,
        samples=count,
    )
