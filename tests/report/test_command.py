"""``hwprune report`` finds out what it was given."""

import json
from pathlib import Path

import pytest

from hwprune import cli
from hwprune.deploy import Bundle

from .made_up import DOCUMENT, MANIFEST, with_result


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A sweep of one run, with its bundle; a bundle alone."""
    monkeypatch.chdir(tmp_path)
    for folder in ("all/0.5x/bundle", "alone"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.json").write_text(json.dumps(MANIFEST))
    monkeypatch.setattr(Bundle, "load", classmethod(lambda made, path: made(Path(path), MANIFEST)))
    document = {**DOCUMENT, "schema_version": 1, "status": "done", "result": with_result()["result"]}
    (tmp_path / "all/0.5x/run.json").write_text(json.dumps(document))
    (tmp_path / "all/sweep.json").write_text(json.dumps({"values": ["0.5x"]}))
    return tmp_path


@pytest.mark.parametrize("form", ["html", "md"])
@pytest.mark.parametrize(
    ("what", "page", "said"),
    [
        ("all", "all/frontier", "0.5x: budget 2 ms"),
        ("all/0.5x", "all/0.5x/report", "How to reproduce"),
        ("all/0.5x/bundle", "all/0.5x/report", "How to reproduce"),
        ("alone", "alone", "There is no run beside this bundle."),
    ],
)
def test_every_kind_has_its_page(what, page, said, form, given, capsys):
    assert cli.main(["report", what, "--format", form, "--json"]) == 0
    path = given / json.loads(capsys.readouterr().out)["report"]
    assert path == given / f"{page}.{form}"
    assert said in path.read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith({"html": "<!DOCTYPE html>", "md": "# "}[form])


def test_the_bundle_stays_as_it_is(given):
    before = sorted(given.rglob("*"))
    assert cli.main(["report", "alone"]) == 0
    assert sorted(given.rglob("*")) == sorted([*before, given / "alone.html"])


def test_unknown_format(given, capsys):
    assert cli.main(["report", "alone", "--format", "pdf"]) == 2
    assert "one of html, md" in capsys.readouterr().err
    assert not (given / "alone.pdf").exists()
