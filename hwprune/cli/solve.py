"""``hwprune solve``: the widths that keep most saliency within the budgets of a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwprune.cli.options import Config, Json, Seed
from hwprune.cli.output import emit

NAME = "solve"


def command(
    problem: Annotated[Path, typer.Argument(help="A problem as JSON: groups, costs, budgets.")],
    method: Annotated[str, typer.Option(help="joint, or a baseline: halp, uniform, global.")] = "joint",
    gap: Annotated[float, typer.Option(help="Relative gap to the bound at which to stop.", min=0.0, max=1.0)] = 1e-4,
    time_limit: Annotated[float, typer.Option(help="Seconds after which the best so far is given.", min=0.0)] = 60.0,
    frontier: Annotated[bool, typer.Option("--frontier", help="Also the hull of saliency over cost.")] = False,
    config: Config = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Solve a budget problem; prints widths, objective, bound and gap."""
    from hwprune.budget import Solver, load_problem, solvers
    from hwprune.errors import InfeasibleError, InputError

    read = load_problem(problem)
    if method not in solvers():
        raise InputError(f"method {method!r} is unknown", hint=f"methods: {', '.join(solvers())}")
    solver = Solver(read) if method == "joint" or frontier else None
    try:
        if method == "joint":
            assert solver is not None
            plan = solver.solve(gap=gap, time_limit_s=time_limit)
        else:
            plan = solvers()[method](read)
    except InfeasibleError as error:
        if not json:
            raise
        emit({"error": error.message, "hint": error.hint, "least": error.least}, as_json=True, text="")
        return 1
    document: dict[str, Any] = {
        "widths": plan.widths,
        "objective": plan.objective,
        "bound": plan.bound,
        "relative_gap": plan.relative_gap,
        "used": plan.used,
        "budgets": plan.budgets,
        "shadow_prices": plan.shadow_prices,
        "solver": plan.solver,
        "solve_s": plan.solve_s,
    }
    if frontier and solver is not None:
        (budget,) = _one(read.budgets)
        document["frontier"] = [
            {"cost": cost, "objective": objective, "widths": widths}
            for cost, objective, widths in solver.frontier(budget)
        ]
    emit(document, as_json=json, text=_text(document))
    return 0


def _one(budgets: dict[str, float]) -> list[str]:
    from hwprune.errors import InputError

    if len(budgets) != 1:
        raise InputError(
            f"a frontier is over one budget, this problem has {', '.join(budgets)}", hint="leave out --frontier"
        )
    return list(budgets)


def _text(document: dict[str, Any]) -> str:
    lines = [f"{name:>8}  {group}" for group, name in document["widths"].items()]
    if document["bound"] is None:
        lines.append(f"keeps {document['objective']:.6g} ({document['solver']}, {document['solve_s']:.2f} s)")
    else:
        lines.append(
            f"keeps {document['objective']:.6g}; no widths keep more than {document['bound']:.6g} "
            f"(gap {document['relative_gap']:.2%}, {document['solve_s']:.2f} s)"
        )
    for name, limit in document["budgets"].items():
        worth = document["shadow_prices"].get(name)
        priced = f"; one more unit is worth {worth:.4g}" if worth is not None else ""
        lines.append(f"{name}: {document['used'][name]:.6g} of {limit:.6g}{priced}")
    if "frontier" in document:
        lines.append(f"frontier: {len(document['frontier'])} points")
        lines += [f"{point['cost']:12.6g}  {point['objective']:12.6g}" for point in document["frontier"]]
    return "\n".join(lines)
