import copy
import json
import re

import pytest

from hwprune.errors import InputError
from hwprune.report import render_text, write_report
from hwprune.report.page import Beside, html_report
from hwprune.report.quantities import change, quantity

from .made_up import DOCUMENT, HISTORY, HOSTILE, SPARSE, UPDATES, Page, pictures, tooltips, with_result, words

BESIDE = Beside(history=HISTORY)

# -- quantities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("latency_ms", 1.23456, "1.235 ms"),
        ("size_bytes", 999, "999 B"),
        ("size_bytes", 1_930_000, "1.93 MB"),
        ("memory_bytes", 1_930_000, "1.93 MB"),
        ("macs", 4.1e9, "4.1 G"),
        ("parameters", 512, "512"),
        ("accuracy", 0.9722, "97.22%"),
        ("dice", 0.51234, "0.5123"),
        ("latency_ms", None, "–"),
    ],
)
def test_quantity(metric, value, shown):
    assert quantity(metric, value) == shown


@pytest.mark.parametrize(
    ("metric", "before", "after", "shown"),
    [
        ("accuracy", 0.98, 0.9722, "-0.78 points"),
        ("latency_ms", 4.0, 2.0, "0.5×"),
        ("rmse", 1.5, 1.75, "+0.25"),
        ("macs", None, 3, "–"),
        ("macs", 0, 3, "–"),
    ],
)
def test_change(metric, before, after, shown):
    assert change(metric, before, after) == shown


# -- the table ------------------------------------------------------------------------------------------------


def cells(text):
    return {
        parts[0].strip(): [part.strip() for part in parts[1:4]]
        for line in text.splitlines()
        if len(parts := re.split(r"[│┃]", line.strip("│┃"))) >= 4
    }


def test_table_has_every_number_in_its_row():
    rows = cells(render_text(DOCUMENT))
    assert rows["accuracy (exported engine)"] == ["98.00%", "97.22%", "-0.78 points"]
    assert rows["latency, measured"] == ["4 ms", "1.97 ms", "0.492× [0.49, 0.495]"]
    assert rows["latency, predicted"] == ["–", "1.95 ms", "–"]
    assert rows["parameters"] == ["480 k", "120 k", "0.25×"]
    assert rows["multiply-accumulates"] == ["16 M", "3.2 M", "0.2×"]
    assert rows["file size"] == ["1.93 MB", "490.1 kB", "0.254×"]
    assert rows["memory, measured"] == ["2.5 MB", "703 kB", "0.281×"]
    assert "memory, predicted" not in rows


def test_verdicts():
    assert "budget 2 ms (0.5x): met, 1.97 ms measured, 98.5% of it" in render_text(DOCUMENT)
    missed = with_result(budget_met=False, measured=2.3, budget_used=1.15)
    assert "budget 2 ms (0.5x): MISSED by 0.3 ms, 2.3 ms measured, 115.0% of it" in render_text(missed)
    unmeasured = with_result(
        budget_met=None, measured=None, measured_latency_ms=None, baseline_latency_ms=None, latency_ratio=None
    )
    text = render_text(unmeasured)
    assert "1.95 ms predicted, not measured" in text
    assert "hwprune bench" in text
    assert cells(text)["latency, measured"] == ["–", "–", "–"]


def test_a_ratio_whose_interval_holds_one_claims_nothing():
    assert "no difference shown" in render_text(with_result(latency_ratio=[0.99, 0.97, 1.01]))
    assert "no difference shown" not in render_text(with_result(latency_ratio=[1.05, 1.01, 1.09]))


def test_names_are_not_markup():
    document = copy.deepcopy(DOCUMENT)
    document["config"]["model"] = "[red]net[/red].py:build[0]"
    assert "[red]net[/red].py:build[0]" in render_text(document)


def test_size_budget():
    text = render_text(
        with_result(
            budget=500_000,
            budget_metric="size_bytes",
            budget_requested="0.5 MB",
            measured=490_123,
            budget_used=0.98,
            predicted_latency_ms=None,
        )
    )
    assert "budget 500 kB (0.5 MB): met, 490.1 kB measured, 98.0% of it" in text
    assert "predicted" not in text


def test_memory_budget():
    budget = {"budget": 750_000, "budget_metric": "memory_bytes", "budget_requested": "0.3x", "budget_used": 0.937}
    text = render_text(with_result(**budget, measured=703_000, memory_of="activations"))
    assert "budget 750 kB (0.3x): met, 703 kB measured, 93.7% of it" in text
    assert cells(text)["activation memory, measured"] == ["2.5 MB", "703 kB", "0.281×"]
    assert cells(text)["activation memory, predicted"] == ["–", "700 kB", "–"]
    unknown = {"measured": None, "measured_memory_bytes": None, "baseline_memory_bytes": None, "budget_met": None}
    text = render_text(with_result(**budget, **unknown, predicted=700_000))
    assert "700 kB predicted, not measured" in text
    assert cells(text)["memory, predicted"] == ["–", "700 kB", "–"]


# -- the page -------------------------------------------------------------------------------------------------


def test_page_shows_groups_layers_epochs_and_trials():
    page = Page(html_report(DOCUMENT, BESIDE))
    assert ["stem", "32", "16", ""] in page.rows
    assert ["head", "10", "10", "model output"] in page.rows
    assert ["stem", "3", "1.5", "measured"] in page.rows
    assert ["relu", "0", "0", "fused into stem"] in page.rows
    assert ["1", "prune while training", "0.5", "91.00%"] in page.rows
    assert ["2", "fine-tune", "0.25", "97.00%"] in page.rows
    assert ["2", "2 ms", "1.97 ms"] in page.rows
    assert ["cpu", "AMD EPYC"] in page.rows
    assert "98.5% of it" in page.text
    assert ("p", {"class": "verdict met"}) in page.tags


def test_pictures_are_whole_svgs_with_the_names():
    drawn = pictures(html_report(DOCUMENT, BESIDE))
    assert len(drawn) == 5
    scores, groups, layers, epochs, trials = map(words, drawn)
    assert {"frontier", "dense network", "this run", "latency (ms)"} <= set(scores)
    assert {"stem", "head"} <= set(groups)
    assert "stem" in layers
    assert "relu" not in layers  # it runs inside another kernel: no bar of its own
    assert {"training loss", "accuracy"} <= set(epochs)
    assert {"budget 2 ms", "measured"} <= set(trials)


def test_what_is_drawn_says_its_value_on_hover():
    scores, groups, layers, epochs, trials = map(tooltips, pictures(html_report(DOCUMENT, BESIDE)))
    assert sorted(scores) == ["budget 0.5x: 1.97 ms, accuracy 97.22%", "dense network: 4 ms, accuracy 98.00%"]
    assert "stem: 16 of 32 channels" in groups
    assert "head: 10 of 10 channels; stays whole: model output" in groups
    assert layers == 2 * ["stem: 3 ms before, 1.5 ms after (measured)"]
    assert {"epoch 1: loss 0.5", "epoch 2: 0.97"} <= set(epochs)
    assert {"trial 1: 4 measured", "trial 2: 2 predicted by table"} <= set(trials)


def test_pictures_take_the_colours_of_the_page():
    for svg in pictures(html_report(DOCUMENT, BESIDE)):
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) - {"none"}
        assert colours
        assert all(re.fullmatch(r"var\(--\w+\)", colour) for colour in colours), colours


def test_page_stands_alone():
    page = Page(html_report(DOCUMENT, BESIDE))
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
        assert "url(" not in attributes.get("style", "")


def test_nothing_that_a_user_names_becomes_markup():
    document = json.loads(json.dumps(DOCUMENT))
    document["config"]["model"] = HOSTILE
    document["groups"][1].update(name=HOSTILE, frozen=HOSTILE)
    document["layers"][0].update(name=HOSTILE, source=HOSTILE)
    document["result"].update(metric=HOSTILE, accuracy_of=HOSTILE, budget_requested=HOSTILE)
    document["device"] = {HOSTILE: HOSTILE}
    html = html_report(document, BESIDE)
    page = Page(html)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert [HOSTILE, "10", "10", HOSTILE] in page.rows
    drawn = pictures(html)
    assert HOSTILE in words(drawn[1])  # as text, dollar sign and all
    assert HOSTILE in words(drawn[2])
    assert any(said.startswith(HOSTILE) for said in tooltips(drawn[2]))


def test_same_run_gives_the_same_page():
    assert html_report(DOCUMENT, BESIDE) == html_report(copy.deepcopy(DOCUMENT), BESIDE)


def test_page_of_a_run_that_could_only_be_predicted():
    document = with_result(budget_met=None, measured=None, measured_latency_ms=None, latency_ratio=None)
    document.update(layers=[], device=None)
    document["stages"]["settle"]["trials"] = []
    html = html_report(document)
    page = Page(html)
    assert len(pictures(html)) == 1
    assert "Nothing was measured on the device" in page.text
    assert ("p", {"class": "verdict"}) in page.tags


def test_hundreds_of_layers_are_drawn_in_part_and_listed_in_full():
    document = copy.deepcopy(DOCUMENT)
    document["layers"] = [
        {"name": f"layer{i}", "before_ms": float(i), "after_ms": i / 2, "source": "measured"} for i in range(300)
    ]
    html = html_report(document)
    page, drawn = Page(html), words(pictures(html)[2])
    assert "layer299" in drawn
    assert "layer10" not in drawn
    assert drawn.index("layer280") < drawn.index("layer299")
    assert sum(row[0].startswith("layer") and len(row) == 4 and row[3] == "measured" for row in page.rows) == 300


# -- writing --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(DOCUMENT))
    lines = "\n".join(json.dumps(event) for event in HISTORY)
    (folder / "history.jsonl").write_text(lines + '\n{"event": "epo')
    return folder


def test_page_is_written_into_the_run_or_elsewhere(run, tmp_path):
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == html_report(DOCUMENT, BESIDE)
    assert write_report(run, tmp_path / "other.html").read_bytes() == path.read_bytes()


def test_no_run(tmp_path):
    with pytest.raises(InputError, match="cannot read the run"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the run"):
        write_report(tmp_path)


def test_unfinished_run(run):
    (run / "run.json").write_text(json.dumps({"status": "running", "config": {}, "stages": {}}))
    with pytest.raises(InputError, match="has no 'result' yet") as caught:
        write_report(run)
    assert "--resume" in caught.value.hint


def test_place_that_cannot_be_written(run):
    with pytest.raises(InputError, match="cannot write"):
        write_report(run, run / "missing" / "page.html")


def test_zeros_and_the_file_they_are_stored_in():
    said = " ".join(render_text(with_result(sparse=SPARSE, other_budgets=[])).split())
    for part in (
        "90.12%",
        "granet",
        "stored file (gap8-int8)",
        "12.34 kB",
        "0.1×",
        "sparsity 90%: met, 90.12% are zero",
    ):
        assert part in said
    assert "smaller, not a dense runtime faster" in said
    assert "61.7% of its budget" in said
    alone = with_result(sparse=SPARSE, budget=None, budget_metric=None, budget_used=None, measured=None)
    alone["stages"]["settle"]["trials"] = []  # nothing was cut
    assert "budget 2" not in render_text(alone)
    page = Page(html_report(alone))
    assert ["stem.weight", "25.00", ""] in page.rows
    assert [HOSTILE, "1.25", ""] in page.rows
    assert ["pos_embed", "", "excluded by name"] in page.rows
    assert not any(tag == "script" for tag, _ in page.tags)


def test_masks_over_time_are_drawn():
    document = {**DOCUMENT, "mask_updates": UPDATES}
    html = html_report(document, BESIDE)
    page, found = Page(html), [words(picture) for picture in pictures(html)]
    assert len(found) == len(pictures(html_report(DOCUMENT, BESIDE))) + 3
    (overlap,) = (said for said in found if "overlap of masks (IoU)" in said)
    assert "grown weights that survived" in overlap
    assert any(any("step of fine-tuning" in one for one in said) and HOSTILE in said for said in found)
    assert any(any("epoch that pruned" in one for one in said) and "stem" in said for said in found)
    assert ["9", "3", "20"] in page.rows
