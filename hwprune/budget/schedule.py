"""How a budget is approached over several pruning steps."""

from __future__ import annotations


def geometric(start: float, end: float, steps: int) -> list[float]:
    """Targets that go from ``start`` to ``end`` by the same factor at every step.

    HALP (Shen et al., NeurIPS 2022), after FORCE (de Jorge et al., ICLR 2021):
    ``target_t = start^(1 − t/S) · end^(t/S)`` for t = 1…S.

    Args:
        start: cost before the first step, positive.
        end: the budget, positive, in the unit of ``start``.
        steps: S, at least 1.

    Returns:
        ``steps`` targets; the last is exactly ``end``.

    Raises:
        ValueError: an end that is not positive, or no step.
    """
    if start <= 0 or end <= 0 or steps < 1:
        raise ValueError(f"a geometric schedule needs positive ends and a step, got {start}, {end}, {steps}")
    return [start ** (1 - t / steps) * end ** (t / steps) for t in range(1, steps)] + [end]
