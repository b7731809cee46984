"""What the command line promises when the input is good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hwprune import device_runner
from hwprune.budget import Plan
from hwprune.compression import Run

from .workshop import COMPRESS, MODEL

RESULT = {
    "budget",
    "predicted_latency_ms",
    "measured_latency_ms",
    "baseline_latency_ms",
    "accuracy",
    "baseline_accuracy",
    "size_bytes",
    "baseline_size_bytes",
    "budget_met",
}
BYTES = ("parameters", "size_bytes", "peak_memory_bytes")
SOLVED = {"widths", "objective", "bound", "relative_gap", "used", "solve_s"}
VERBS = ("demo", "targets", "inspect", "profile", "predict", "compress", "export", "bench", "verify", "solve", "report")
JSON = {
    "targets": ("targets", {"targets"}),
    "inspect": (f"inspect {MODEL} --svg net.svg", {"cuttable", "reachable", "groups", "layers", "edges", "svg"}),
    "profile": (f"profile {MODEL} --points 2 --output t.json", {"table", "entries"}),
    "predict": (f"predict {MODEL} --table table.json", {"predicted_latency_ms", "layers", "target", *BYTES}),
    "compress": (f"{COMPRESS} --macs 0.5x", RESULT),
    "several": (f"{COMPRESS} --macs 0.8x,0.5x", {"runs", "page"}),
    "finished": ("compress --resume --output finished", RESULT),
    "export": (f"export {MODEL} --weights weights.pt --output out", {"bundle", "latency_ms"}),
    "export packed": (
        f"export {MODEL} --storage gap8-int8-xz --output out",
        {"bundle", "latency_ms", "parity", "engine"},
    ),
    "copy": ("export finished --output out", {"bundle"}),
    "bench": ("bench finished/bundle", {"latency_ms"}),
    "bench engine": ("bench finished/model.onnx", {"latency_ms"}),
    "bench model": (f"bench {MODEL} --batch 2", {"latency_ms"}),
    "bench model in int8": (f"bench {MODEL} --precision int8", {"latency_ms"}),
    "verify": ("verify finished/bundle", {"ok", "checks", "latency_ms"}),
    "solve": ("solve problem.json", SOLVED),
    "solve by halp": ("solve problem.json --method halp", SOLVED),
    "frontier": ("solve problem.json --frontier", SOLVED | {"frontier"}),
    "report": ("report finished", {"report"} | RESULT),
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_one_document_alone_on_stdout(name: str, hwprune: Any, workshop: Path) -> None:
    line, keys = JSON[name]
    answer = hwprune(f"{line} --json")
    assert answer.status == 0, answer.err
    document = json.loads(answer.out, parse_constant=lambda constant: pytest.fail(constant))
    assert keys <= document.keys()
    if name.startswith("bench"):
        assert {"p50", "p90", "repeats"} <= document["latency_ms"].keys()


def test_inspecting_draws_and_is_no_failure_where_nothing_can_be_cut(hwprune: Any, workshop: Path) -> None:
    answer = hwprune(f"inspect {MODEL} --svg net.svg")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("2 of 4 channel groups can be cut; ")
    assert answer.out.endswith("\nnet.svg\n")
    assert Path("net.svg").read_text().startswith("<svg ")
    answer = hwprune(f"inspect {MODEL.replace(':build', ':nothing_to_prune')}")
    assert answer.status == 0
    assert answer.out.startswith("nothing in this model can be cut: ")
    assert "the model's output" in answer.out


def test_a_problem_is_solved(hwprune: Any, workshop: Path) -> None:
    found = json.loads(hwprune("solve problem.json --json").out)
    assert found["widths"] == {"a": 16, "b": 32}
    assert found["objective"] == pytest.approx(2.1)
    assert found["used"] == {"latency_ms": pytest.approx(0.3)}
    assert found["bound"] >= found["objective"]
    assert found["relative_gap"] <= 1e-4
    answer = hwprune("solve problem.json")
    assert answer.status == 0
    assert "keeps 2.1; no widths keep more than 2.1" in answer.out


def test_a_problem_without_a_solution(hwprune: Any, workshop: Path) -> None:
    document = json.loads(Path("problem.json").read_text())
    Path("tight.json").write_text(json.dumps({**document, "budgets": {"latency_ms": 0.1}}))
    answer = hwprune("solve tight.json --json")
    assert answer.status == 1
    assert json.loads(answer.out)["least"] == {"latency_ms": pytest.approx(0.2)}
    answer = hwprune("solve tight.json")
    assert answer.status == 1
    assert "latency_ms cannot be 0.1: its least is 0.2" in answer.err


def test_what_a_model_prints_stays_out_of_the_document(hwprune: Any, workshop: Path) -> None:
    answer = hwprune(f"predict {MODEL.replace(':build', ':chatty')} --table table.json --json")
    assert json.loads(answer.out)["predicted_latency_ms"] > 0
    assert "a model that talks" in answer.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_knows_the_common_flags(verb: str, hwprune: Any) -> None:
    answer = hwprune(f"{verb} --help")
    assert (answer.status, answer.err) == (0, "")
    assert "--json" in answer.out
    if verb != "targets":
        assert "--config" in answer.out
        assert "--seed" in answer.out
    assert verb in hwprune("--help").out


def test_without_words_the_help(hwprune: Any) -> None:
    assert hwprune("") == hwprune("--help")
    assert hwprune("--help").status == 0


def test_version(hwprune: Any) -> None:
    import hwprune as package

    assert hwprune("--version").out == f"hwprune {package.__version__}\n"


def test_a_config_file_sets_flags_and_flags_win(hwprune: Any, workshop: Path) -> None:
    (workshop / "some.toml").write_text(
        'model = "models.py:build"\ninput-shape = [1, 3, 8, 8]\ndata = "images.npz"\naugment = true\nseed = 7\n'
        'learning_rate = 1\nmacs = "0.9x"\nepochs = 3\nbatch_size = 12\n'
    )
    with mock.patch("hwprune.compression.compress", side_effect=KeyboardInterrupt) as compress:
        hwprune("compress --config some.toml --macs 0.5x --epochs 4 --output run")
    chosen = compress.call_args.args[0]
    assert (chosen.input_shape, chosen.augment, chosen.seed, chosen.learning_rate) == ((1, 3, 8, 8), True, 7, 1.0)
    assert (chosen.macs, chosen.epochs, chosen.batch_size) == ("0.5x", 4, 12)


def test_the_flags_of_compress_are_the_settings(hwprune: Any) -> None:
    """The same names and the same defaults on the command line, in files and in Python."""
    import inspect

    from hwprune.cli.compress import command
    from hwprune.compression import CompressConfig

    flags = {name: flag.default for name, flag in inspect.signature(command).parameters.items()}
    settings = {
        name: None if field.is_required() else field.default for name, field in CompressConfig.model_fields.items()
    }
    for name in ("context", "config", "json", "resume"):
        flags.pop(name)
    assert flags.keys() == settings.keys()
    del flags["output"]
    assert flags == {name: settings[name] for name in flags}


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("met", [True, False, None])
def test_a_missed_promise_is_exit_status_1(met: bool | None, verified: bool, hwprune: Any, workshop: Path) -> None:
    """The demo's promises are kept only if they were measured; compress may predict for an absent device."""
    document = json.loads(Path("finished/run.json").read_text())
    run = Run(Path("finished"), Plan.load(Path("finished/plan.json")), document)
    run.result["budget_met"] = met
    with (
        mock.patch("hwprune.compression.compress", return_value=run),
        mock.patch("hwprune.compression.demo.demo", return_value=run),
        mock.patch("hwprune.deploy.verify", return_value={"ok": verified}),
    ):
        assert hwprune(f"{COMPRESS} --macs 0.5x").status == (1 if met is False else 0)
        assert hwprune("demo --output fresh").status == (0 if met and verified else 1)


def test_a_bundle_that_was_changed_fails_its_verification(hwprune: Any, workshop: Path) -> None:
    answer = hwprune("verify changed --json")
    assert answer.status == 1
    assert json.loads(answer.out)["ok"] is False


def test_a_busy_device_is_exit_status_3(hwprune: Any, workshop: Path) -> None:
    with mock.patch.object(device_runner, "measure", side_effect=device_runner.MeasurementRefused("too busy: 3%")):
        answer = hwprune("bench finished/bundle --json")
    assert (answer.status, answer.out) == (3, "")
    assert answer.err.startswith("error: measuring engine: too busy: 3%")
    assert "\nhint: " in answer.err


def test_a_fault_of_ours_is_exit_status_3_and_debug_shows_where(hwprune: Any, workshop: Path) -> None:
    with mock.patch("hwprune.verbs.report", side_effect=ZeroDivisionError("ours")):
        answer = hwprune("report finished")
        assert answer.status == 3
        assert "ZeroDivisionError: ours" in answer.err
        assert "--debug" in answer.err
        with pytest.raises(ZeroDivisionError):
            hwprune("report finished --debug")


def test_predicted_for_an_absent_device_and_completed_on_it(hwprune: Any, workshop: Path) -> None:
    line = f"{COMPRESS} --latency 0.6x --table table.json --target board.toml --json"
    answer = hwprune(line)
    assert answer.status == 0, answer.err
    result = json.loads(answer.out)
    assert (result["evidence"], result["measured_latency_ms"], result["budget_met"]) == ("predicted", None, None)
    measured = json.loads(hwprune("bench run/bundle --json").out)
    assert measured["completed"] == "run/bundle"
    assert measured["budget_met"] == (measured["latency_ms"]["p50"] <= result["budget"])
    assert hwprune("verify run/bundle").status == 0


def test_resume_repeats_the_settings_or_leaves_them_out(hwprune: Any, workshop: Path) -> None:
    assert hwprune("compress --resume --output finished").status == 0
    assert hwprune(f"{COMPRESS.replace('--output run', '--output finished')} --macs 0.5x --resume").status == 0
