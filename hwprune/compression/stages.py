"""The stages of a compression; each reads what earlier ones recorded and records one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer

from hwprune.budget import Metric, Plan, spell, write_problem
from hwprune.compression.folder import RunFolder
from hwprune.compression.gauge import gauge, memory_gauge
from hwprune.compression.job import Job
from hwprune.compression.lowered import FLOAT, checked_parity, gates_of, lower_file, replace_precision
from hwprune.compression.mask_updates import note_channels
from hwprune.compression.settle import ClosedLoop, Settlement, Trial, Window, correct
from hwprune.compression.sparse import as_exported, finetune_sparse, store, train_by
from hwprune.compression.sparse_settings import NOTHING
from hwprune.compression.sparse_ways import Unpruned
from hwprune.deploy import channel_block, export_onnx, measure_one
from hwprune.deploy.accuracy import Judge
from hwprune.deploy.lowering import lower_for_timing
from hwprune.deploy.profiling import profile_model
from hwprune.errors import BudgetError, InputError
from hwprune.files import write_atomic
from hwprune.footprint import weight_bytes
from hwprune.latency import LatencyTable
from hwprune.network import cut, verify_cut
from hwprune.pruning import BudgetPruner, Pricing, PruneSchedule, price
from hwprune.regrow import ExploreSchedule, ExploringPruner
from hwprune.saliency import criteria
from hwprune.training import (
    Hooks,
    TrainState,
    evaluate_model,
    processes,
    recalibrate_batchnorm,
    steps_per_epoch,
    train,
    train_batches,
)

CAP_MARGIN = 0.005  # of budgets that are held by prediction alone: a file's own bytes are not exactly additive
SLACK = 1.05  # of the budget while pruning goes on; the last step takes it back


def baseline(job: Job, run: RunFolder) -> dict[str, Any]:
    """Export the dense network; record its accuracy, size, operations and, if they can be, latency and memory."""
    job.progress.say("dense network: exporting and measuring")
    path = run.path / "baseline.onnx"
    export_onnx(job.model, job.example, path)
    latency: dict[str, Any] | None = None
    if job.measurable:
        checked_parity(replace_precision(job, FLOAT), job.model, path)
    lower_for_timing(path, job.target)
    if job.measurable:
        latency = measure_one(path, job.target).latency.to_dict()
    return {
        "accuracy": evaluate_model(job.model, job.data, job.task),
        "size_bytes": path.stat().st_size,
        "parameters": job.network.total_parameters,
        "macs": sum(layer.macs for layer in job.network.layers),
        "memory_bytes": memory_gauge(job).weigh(path) if job.measurable else None,
        "channel_block": channel_block(job.target) if job.measurable else 1,
        "latency": latency,
    }


def latency_table(job: Job, run: RunFolder) -> dict[str, Any]:
    """Put the target's table into the run: the one that was given, or one measured now."""
    path = run.path / "table.json"
    if job.table is None and not (job.cuts and job.budget.metric == "latency_ms" and job.measurable):
        return {"file": None, "source": "not needed"}
    if job.table is not None:
        price(job.network, "latency_ms", table=job.table)  # refused now if it lacks a layer, not in the report
        job.table.save(path)
        return {"file": path.name, "source": str(job.config.table or "given in memory")}
    with job.progress.bar("latency table") as advance:
        table = profile_model(
            job.model,
            job.example,
            job.network,
            job.target,
            method=job.config.table_method,
            points=job.config.table_points,
            seed=job.config.seed,
            progress=advance,
        )
    table.save(path)
    return {"file": path.name, "source": "measured for this run"}


def caps(job: Job, run: RunFolder) -> dict[str, float]:
    """Limits of the budgets beside the one that is used up, by metric."""
    dense = run.stage("baseline")
    limits: dict[str, float] = {}
    for budget in job.config.budgets[1:]:
        today = dense[budget.metric]
        if today is None:
            raise InputError(
                f"target {job.target.name!r} does not tell how much memory a network takes",
                hint="leave out --memory, or give it as the only budget",
            )
        limits[budget.metric] = budget.resolve(float(today))
    return limits


def pricing(job: Job, run: RunFolder) -> Pricing:
    """Prices of all widths under the budgets' metrics."""
    table, path = None, run.path / "table.json"
    if job.budget.metric == "latency_ms":
        table = processes().from_first(lambda: LatencyTable.load(path))
    dense, step = run.stage("baseline"), job.config.channel_step
    stored = weight_bytes(job.network, job.target.precision)
    weights = sum(term.at(job.network.dense_widths) for terms in stored.values() for term in terms)
    return price(
        job.network,
        job.budget.metric,
        table=table,
        step=max(step, dense["channel_block"]) if job.budget.metric == "memory_bytes" else step,
        target=job.target,
        graph_bytes=max(0.0, dense["size_bytes"] - weights),
        caps={metric: limit * (1 - CAP_MARGIN) for metric, limit in caps(job, run).items()},
        weights_in_flash=job.config.weights_in_flash,
        blocks=job.config.remove_blocks,
    )


def reach(job: Job, run: RunFolder) -> dict[str, Any]:
    """Resolve the budget, and measure the smallest network before any time goes into training.

    Raises:
        BudgetError: the budget is below what the smallest network measures; says the least.
    """
    prices = pricing(job, run)
    for metric, most in prices.caps.items():
        _check_reach(job, most, prices.value(prices.smallest, metric), cast(Metric, metric))
    dense, smallest = prices.value(prices.dense), prices.value(prices.smallest)
    if not _can_measure(job, run):
        limit = job.budget.resolve(dense)
        _check_reach(job, limit, smallest, job.budget.metric)
        return {"limit": limit, "trials": []}
    measured_dense = _dense_value(job, run)
    limit = job.budget.resolve(measured_dense)
    if limit >= measured_dense:
        return {"limit": limit, "trials": [_record(Trial(prices.dense, dense, measured_dense))]}
    kept = {group: range(width) for group, width in prices.smallest.items()}
    measured_least = gauge(job, run).measure(as_exported(job, cut(job.model, job.network.cuts(kept))))
    _check_reach(job, limit, measured_least, job.budget.metric)
    trials = [Trial(prices.dense, dense, measured_dense), Trial(prices.smallest, smallest, measured_least)]
    return {"limit": limit, "trials": [_record(trial) for trial in trials]}


def _check_reach(job: Job, limit: float, least: float, metric: Metric) -> None:
    if limit < least:
        more = job.network.blocks and not job.config.remove_blocks and job.config.solver == "joint"
        raise BudgetError(
            f"the budget of {spell(metric, limit)} cannot be reached: with every group cut to its least width the "
            f"network still takes {spell(metric, least)}",
            hint=f"ask for {spell(metric, least * 1.05)} or more" + (", or give --remove-blocks" if more else ""),
        )


def _can_measure(job: Job, run: RunFolder) -> bool:
    """Latency needs the device, memory a runtime that tells; the rest is counted on what was exported."""
    if job.budget.metric == "memory_bytes":
        return run.stage("baseline")["memory_bytes"] is not None
    return job.measurable or job.budget.metric != "latency_ms"


def _dense_value(job: Job, run: RunFolder) -> float:
    record = run.stage("baseline")
    return float(record["latency"]["p50_ms"] if job.budget.metric == "latency_ms" else record[job.budget.metric])


def explore(job: Job, run: RunFolder) -> dict[str, Any]:
    """Score channels, and with the iterative method prune by masks while training, up to the last step."""
    config, model = job.config, job.fresh_model()
    oneshot = config.oneshot
    steps = 1 if oneshot else config.prune_steps
    settings = job.training(epochs=config.prune_epochs, constant=True)
    iterations = config.saliency_batches if oneshot else config.prune_epochs * steps_per_epoch(job.data, settings)
    steps = min(steps, iterations)
    prices, trials = pricing(job, run), _trials(run)
    # What is masked on the way stays cut: a limit taken too low would put the window out of reach of the last step.
    limit = _as_predicted(run.stage("reach")["limit"], trials, slack=SLACK)
    chosen: dict[str, Any] = {"criterion": criteria()[config.criterion], "solver": job.solver}
    pruner: BudgetPruner
    if config.regrow == "iee":
        stages = ExploreSchedule.of(iterations, cycles=config.prune_steps, fraction=config.explore_fraction)
        pruner = ExploringPruner(model, job.network, prices, limit=limit, schedule=stages, **chosen)
    else:
        schedule = PruneSchedule(steps=steps, interval=iterations // steps)
        pruner = BudgetPruner(model, job.network, prices, limit=limit, schedule=schedule, **chosen)
    if oneshot:
        processes().from_first(lambda: _collect(job, model, pruner))
    else:
        _prune_while_training(job, run, model, pruner)
    note_channels(run, pruner)
    run.keep("explored", {"model": model.state_dict(), "pruner": pruner.state_dict()})
    return {"steps": steps, "widths": pruner.widths}


def _as_predicted(limit: float, trials: list[Trial], *, slack: float) -> float:
    """A measured limit in the table's own unit, by the dense and the smallest network."""
    if not trials:
        return limit
    dense = trials[0]
    if len(trials) == 1:
        return max(limit * dense.predicted / dense.measured, dense.predicted)
    least = trials[1]
    rate = (dense.predicted - least.predicted) / (dense.measured - least.measured)
    return slack * (least.predicted + rate * (limit - least.measured))


def _collect(job: Job, model: nn.Module, pruner: BudgetPruner) -> None:
    """Saliency of the dense network, without training it."""
    settings, epoch = job.training(epochs=1), 0
    with job.progress.bar("saliency") as advance:
        while not pruner.finished:
            for batch in train_batches(job.data, settings, epoch, augment=False):
                model.zero_grad()
                job.task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
                pruner.step()
                advance(1, 0, "")
                if pruner.finished:
                    break
            epoch += 1


def _prune_while_training(job: Job, run: RunFolder, model: nn.Module, pruner: BudgetPruner) -> None:
    saved, start = run.kept("explore", optional=True), None
    if saved is not None:
        start = TrainState.from_tree(saved["training"])
        model.load_state_dict(start.model)
        pruner.load_state_dict(saved["pruner"])

    def after_step(_: nn.Module, optimizer: Optimizer) -> None:
        pruner.step(optimizer)

    def after_epoch(state: TrainState) -> None:
        run.epoch_event("prune_epoch", widths=pruner.widths, **state.history[-1])
        run.keep("explore", {"training": state.to_tree(), "pruner": pruner.state_dict()})

    settings = job.training(epochs=job.config.prune_epochs, constant=True)
    with job.progress.bar("prune while training") as advance:
        hooks = Hooks(after_step, after_epoch, lambda p: advance(p.step, p.steps, f"loss {p.loss:.3f}"))
        train(model, job.data, job.task, settings, teacher=job.teacher, hooks=hooks, start=start)


def settle(job: Job, run: RunFolder) -> dict[str, Any]:
    """Solve the last prune step so that the exported network measures inside the budget; write plan.json."""
    _, pruner = explored(job, run)
    trials, limit, solver = _trials(run), float(run.stage("reach")["limit"]), job.solver
    write_atomic(run.path / "problem.json", write_problem(pruner.problem(_as_predicted(limit, trials, slack=1.0))))
    if not _can_measure(job, run):
        plan = solver(pruner.problem(limit))
        settlement = Settlement(plan=plan, trials=(), inside=True)
    elif limit >= trials[0].measured:
        job.progress.say(f"the dense network is inside the budget of {spell(job.budget.metric, limit)}")
        settlement = Settlement(plan=solver(pruner.problem(trials[0].predicted)), trials=tuple(trials), inside=False)
    else:
        measure = _announced(job, run, limit, pruner)
        window = Window() if job.budget.metric == "latency_ms" else Window(margin=0.0)
        loop = ClosedLoop(pruner.problem(limit), measure, limit=limit, trials=trials, window=window, solver=solver)
        settlement = loop.run()
    plan = pruner.complete(settlement.plan)
    write_atomic(run.path / "plan.json", plan.to_json())
    predicted = plan.used[job.budget.metric]
    return {
        "predicted": correct(predicted, settlement.others) if settlement.others else predicted,
        "predicted_by_table": predicted,
        "inside": settlement.inside,
        "trials": [_record(trial) for trial in settlement.trials],
    }


def _announced(job: Job, run: RunFolder, limit: float, pruner: BudgetPruner) -> Callable[[Plan], float]:
    using = gauge(job, run)

    def measure(plan: Plan) -> float:
        value = using.measure(as_exported(job, cut(pruner.model, pruner.complete(plan).cuts)))
        predicted = plan.used[job.budget.metric]
        run.event("trial", widths=plan.widths, predicted=predicted, measured=value, limit=limit)
        job.progress.say(f"closed loop: measured {value:.4g}, {value / limit:.1%} of the budget")
        return value

    return measure


def explored(job: Job, run: RunFolder) -> tuple[nn.Module, BudgetPruner]:
    """The masked network and its pruner as :func:`explore` left them."""
    saved = run.kept("explored")
    model = job.fresh_model()
    model.load_state_dict(saved["model"])
    prices = pricing(job, run)
    pruner = BudgetPruner(
        model,
        job.network,
        prices,
        limit=prices.value(prices.dense),
        schedule=PruneSchedule(),
        criterion=criteria()[job.config.criterion],
        solver=job.solver,
    )
    pruner.load_state_dict(saved["pruner"])
    return model, pruner


def finetune(job: Job, run: RunFolder, attempt: int) -> dict[str, Any]:
    """Cut, check the cut against the masked network, recalibrate batch norms, fine-tune; write the weights."""
    masked = explored(job, run)[0] if job.cuts else job.fresh_model()
    plan = run.plan()
    masked.eval()
    smaller = cut(masked, plan.cuts)
    report = verify_cut(masked, smaller, job.network, plan.kept, job.example)
    record = {"cut_error": report.max_relative_error, "parameters": report.parameters}
    if job.cuts:
        recalibrate_batchnorm(smaller, job.data, job.task, config=job.training(epochs=job.config.epochs))
    if job.config.sparsify != NOTHING:
        return {**record, "sparse": finetune_sparse(job, run, smaller, attempt)}
    train_by(job, run, Unpruned(smaller, job.task), attempt)
    run.keep("finetuned", smaller.state_dict())
    return record


def finetuned(job: Job, run: RunFolder) -> nn.Module:
    """The compressed network with its final weights."""
    model = cut(job.model, run.plan().cuts)
    model.load_state_dict(run.kept("finetuned"))
    return model.eval()


def artifact(job: Job, run: RunFolder) -> dict[str, Any]:
    """Export the compressed network, and hold the engine against torch and the validation set."""
    job.progress.say("compressed network: exporting and verifying")
    model = finetuned(job, run)
    path = run.path / "model.onnx"
    record: dict[str, Any] = {"memory_bytes": None, "parity": None}
    if job.config.sparsify == NOTHING:
        export_onnx(model, job.example, path)
        record |= {**lower_file(job, model, path), "size_bytes": path.stat().st_size}
    else:
        record |= {**store(job, run, model), "precision": None}
    judge = Judge(job.model, job.data, job.task)
    if job.measurable:
        engine, parity = checked_parity(job, model, path, rounded=job.config.rounds)
        record["parity"] = parity.to_dict()
        record["memory_bytes"] = memory_gauge(job).weigh(path)
        lost, record["accuracy_of"] = judge.degradation(engine), "exported engine"
    else:
        lost, record["accuracy_of"] = judge.degradation_of(model), "torch model"
    gates = gates_of(job)
    record["accuracy"], record["degradation"] = lost.artifact, lost.to_dict()
    record["gates"] = {**gates.to_dict(), "met": lost.passes(gates)} if gates.asked else None
    record["source_accuracy"] = evaluate_model(model, job.data, job.task)
    return record


def _trials(run: RunFolder) -> list[Trial]:
    return [Trial(**record) for record in run.stage("reach")["trials"]]


def _record(trial: Trial) -> dict[str, Any]:
    return {"widths": dict(trial.widths), "predicted": trial.predicted, "measured": trial.measured}
