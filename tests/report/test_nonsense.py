"""Runs, sweeps and bundles that lack something, or hold what nobody expected."""

import copy
import json
import math
import shutil
from pathlib import Path

import pytest

from hwprune.budget import Axis, Choices, Cost, CostAxis, Problem, write_problem
from hwprune.errors import InputError
from hwprune.report import html_report, write_bundle_report, write_report, write_sweep
from hwprune.report.bundle_page import bundle_page
from hwprune.report.forms import form_of, formed
from hwprune.report.page import Beside, run_page

from .made_up import DOCUMENT, HISTORY, HOSTILE, LATENCY, MANIFEST, SPARSE, Page, pictures, tooltips, with_result, words

FORMS = ("html", "md")


def missed(**changes):
    return with_result(budget_met=False, measured=2.3, measured_latency_ms=2.3, budget_used=1.15, **changes)


def verdicts(document):
    return {attributes["class"] for tag, attributes in Page(html_report(document)).tags if tag == "p" and attributes}


def test_a_budget_that_was_missed_is_the_first_thing_said():
    page = Page(html_report(missed()))
    assert page.text.index("MISSED by 0.3 ms, 2.3 ms measured, 115.0% of it") < page.text.index("latency, measured")
    assert verdicts(missed()) == {"verdict missed", "verdict"}


def test_each_of_several_budgets_has_its_own_verdict():
    memory = {"metric": "memory_bytes", "requested": "0.2x", "limit": 500_000, "measured": 703_000, "met": False}
    size = {"metric": "size_bytes", "requested": "1MB", "limit": 1e6, "measured": None, "met": None}
    document = with_result(other_budgets=[memory, size], budget_met=False)
    assert verdicts(document) == {"verdict met", "verdict missed", "verdict"}
    text = formed(run_page(document), "md")
    assert "**budget 2 ms (0.5x): met, 1.97 ms measured, 98.5% of it**" in text
    assert "**budget 500 kB (0.2x): MISSED by 203 kB, 703 kB**" in text
    assert "budget 1 MB (1MB): not measured" in text


def test_an_accuracy_gate_that_was_missed():
    lost = {"metric": "accuracy", "lost": 0.031, "low": 0.02, "high": 0.04}
    gates = {"max_degradation": 0.02, "percent_max_degradation": None, "met": False}
    said = Page(html_report(with_result(gates=gates, degradation=lost, budget_met=False)))
    assert "accuracy may fall by 0.02: MISSED, it fell by 0.0310 (lost: +0.0200 to +0.0400 at 95 %)" in said.text
    assert ("p", {"class": "verdict missed"}) in said.tags


@pytest.mark.parametrize("form", FORMS)
def test_not_a_number(form):
    nan = math.nan
    document = with_result(accuracy=nan, measured_latency_ms=nan, latency_ratio=None)
    document["layers"].append({"name": "odd", "before_ms": nan, "after_ms": nan, "source": "measured"})
    document["stages"]["settle"]["trials"].append({"predicted": nan, "measured": nan})
    history = [*HISTORY, {"event": "epoch", "attempt": 0, "epoch": 2, "loss": nan, "metric": nan}]
    text = formed(run_page(document, Beside(history=history)), form)
    assert "accuracy: 98.00% before, not a number after" in text
    if form == "html":
        drawn = pictures(text)
        assert len(drawn) == 4  # nothing to hold against the dense network
        assert "epoch 3" not in " ".join(tooltips(drawn[2]))


def test_letters_that_the_font_lacks_are_left_to_the_browser():
    document = copy.deepcopy(DOCUMENT)
    document["groups"][0]["name"] = "注意力.头 🐈 \x00"
    assert "注意力.头 🐈 \ufffd" in words(pictures(html_report(document))[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_sparse_run_without_a_budget(form):
    nothing = dict.fromkeys(("budget", "budget_metric", "budget_requested", "budget_used", "measured", "predicted"))
    document = with_result(sparse={**SPARSE, "met": False}, **nothing)
    document["stages"]["settle"]["trials"] = []
    text = formed(run_page(document), form)
    assert "sparsity 90%: MISSED, 90.12% are zero" in text
    assert ("accuracy against latency (ms)" in text) == (form == "html")  # it has nothing but a picture


def test_measurement_says_how_good_it_is():
    pair = {
        "baseline": {**LATENCY, "p50_ms": 4.0},
        "candidate": LATENCY,
        "ratio": 0.4925,
        "ratio_low": 0.49,
        "ratio_high": 0.495,
        "rounds": 20,
        "clock": "perf_counter_ns",
        "contention": {"load1": 2.65, "psi_some_avg10": None, HOSTILE: 1},
    }
    document = copy.deepcopy(DOCUMENT)
    document["stages"]["measured"] = {"pair": pair}
    page = Page(html_report(document))
    assert "0.492× the dense one's time, 95 % interval 0.49 to 0.495, 20 interleaved rounds" in page.text
    assert [
        "spread between the quartiles",
        "0.0985 ms (2.5% of the median)",
        "0.0985 ms (5.0% of the median)",
    ] in page.rows
    assert ["of these disturbed, and left out", "6 (2.5%)", "6 (2.5%)"] in page.rows
    assert ["load, average of 1 min", "2.65"] in page.rows
    assert [HOSTILE, "1"] in page.rows
    assert not any(row[0] == "median of the thread's CPU time" for row in page.rows)  # there is none on several threads
    del pair["rounds"], pair["contention"], pair["clock"]  # as older runs have it
    assert "0.495, interleaved rounds" in Page(html_report(document)).text


# -- folders ------------------------------------------------------------------------------------------------------


def stairs(widths=(8, 16, 24)):
    axis = CostAxis(Axis(terms=(("stem", 1),)), sizes=widths)
    table = [1.0 + 0.25 * place for place in range(len(widths))]
    choices = Choices(widths, tuple(float(width) for width in widths))
    return Problem({"stem": choices}, (Cost("latency_ms", (axis,), table),), {"latency_ms": 1.5})


def written(folder, document=DOCUMENT, problem=None):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "done", **document}))
    if problem:
        (folder / "problem.json").write_text(write_problem(problem))
    return folder


def test_a_run_without_history_or_problem(tmp_path):
    run = written(tmp_path / "run")
    assert "Training" not in Page(write_report(run).read_text()).text
    assert write_report(run, form="md") == run / "report.md"


def test_latency_over_widths_from_the_last_problem(tmp_path):
    run = written(tmp_path / "run", problem=stairs())
    (run / "history.jsonl").write_text("\n".join(map(json.dumps, [HISTORY[0], {**HISTORY[0], "widths": {"stem": 32}}])))
    drawn = pictures(write_report(run).read_text())
    assert "after epoch 1: 1.5 ms, accuracy 91.00%" in tooltips(drawn[0])
    assert len([said for said in tooltips(drawn[0]) if said.startswith("after")]) == 1  # 32 was not on offer
    assert tooltips(drawn[2]) == [f"stem at {width} channels: {ms} ms" for width, ms in ((8, 1), (16, 1.25), (24, 1.5))]
    assert "stem" in words(drawn[2])


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}', "[]"])
def test_a_problem_that_cannot_be_read_is_left_out(content, tmp_path):
    run = written(tmp_path / "run")
    plain = write_report(run).read_text()
    (run / "problem.json").write_text(content)
    assert write_report(run).read_text() == plain


def test_a_sweep_and_its_runs_show_each_other(tmp_path):
    values = {"0.8x": 3.1, "0.5x": 1.97}
    for value, measured in values.items():
        written(tmp_path / value, with_result(budget_requested=value, measured=measured, measured_latency_ms=measured))
    (tmp_path / "sweep.json").write_text(json.dumps({"values": [*values, "0.1x", HOSTILE]}))
    scores = tooltips(pictures(write_report(tmp_path / "0.8x").read_text())[0])
    assert "budget 0.8x: 3.1 ms, accuracy 97.22%" in scores
    assert "budget 0.5x: 1.97 ms, accuracy 97.22%" in scores
    html = write_sweep(tmp_path).read_text()
    assert {"frontier", "exported", "dense network"} <= set(words(pictures(html)[0]))
    assert 'href="0.8x/report.html"' in html
    assert html.count("98.5% of it") == len(values)
    assert "[0.8x](<0.8x/report.md>)" in write_sweep(tmp_path, form="md").read_text()
    shutil.rmtree(tmp_path / "0.5x")
    shutil.rmtree(tmp_path / "0.8x")
    with pytest.raises(InputError, match=r"no run of the sweep in .* is finished"):
        write_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"values": 3}')
    with pytest.raises(InputError, match="cannot read the sweep"):
        write_sweep(tmp_path)


# -- bundles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_that_has_no_run(form, tmp_path):
    path = write_bundle_report(tmp_path / "engine", MANIFEST, form=form)
    assert path == tmp_path / f"engine.{form}"
    text = path.read_text()
    for said in ("budget 2 ms (0.5x): met, 1.97 ms measured, 98.5% of it", "490.1 kB", "avx, avx2", "2.5%", "89f9"):
        assert said in text
    assert f"hwprune verify {tmp_path}/engine" in text


def test_a_bundle_of_which_little_is_known():
    bare = {"target": MANIFEST["target"], "engine": MANIFEST["engine"], "files": {}}
    nothing = dict.fromkeys(("latency", "accuracy", "budget", "device", "parity"))
    for manifest in (bare, {**bare, **nothing}):
        page = Page(formed(bundle_page(manifest, Path("x y")), "html"))
        assert "no budget; latency – measured" in page.text
        assert "Nothing was measured" in page.text
        assert "hwprune verify 'x y'" in page.text


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"metric": "size_bytes", "requested": "0.4MB", "limit": 4e5}, "MISSED by 90.12 kB, 490.1 kB measured"),
        ({"metric": "macs", "requested": "0.5x", "limit": 1e6}, "budget 1 M (0.5x): the bundle alone does not tell"),
        ({"metric": "latency_ms", "requested": "1ms", "limit": 1.0}, "MISSED by 0.97 ms, 1.97 ms measured"),
    ],
)
def test_a_bundles_budget_is_held_against_what_the_bundle_tells(budget, said):
    assert said in Page(formed(bundle_page({**MANIFEST, "budget": budget}, Path("b")), "html")).text


def test_a_bundle_whose_accuracy_gate_was_missed():
    lost = {"metric": "accuracy", "lost": -0.01, "low": None, "high": None}
    gates = {"max_degradation": None, "percent_max_degradation": 1.5, "met": False}
    accuracy = {**MANIFEST["accuracy"], "gates": gates, "degradation": lost}
    text = formed(bundle_page({**MANIFEST, "accuracy": accuracy}, Path("b")), "md")
    assert "met, 1.97 ms measured" in text
    assert "**accuracy may fall by 1.5 %: MISSED, it rose by 0.0100**" in text


def test_unknown_format():
    with pytest.raises(InputError, match="format 'pdf' is unknown") as caught:
        form_of("pdf")
    assert caught.value.hint == "one of html, md"
