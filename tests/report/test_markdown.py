"""Pages as Markdown: whole tables, and nothing that a user names means anything."""

import json
import re

import pytest

from hwprune.report.content import Link, Page, Promise, Section, Table
from hwprune.report.forms import formed
from hwprune.report.markdown import MOST_ROWS, escaped, markdown
from hwprune.report.page import Beside, run_page

from .made_up import DOCUMENT, HISTORY, HOSTILE, with_result
from .made_up import Page as Html

NASTY = "a|b `c` *d* _e_ [f](http://g) <i>h</i> &amp; #1 ~~j~~ $k$ \\ \n# l"


def rows(text):
    """Cells of every line of a table, read back as a reader of Markdown does."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1] for line in lines]
    return [[re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", cell.strip()) for cell in line] for line in cells]


def test_the_same_numbers_as_in_the_page():
    document, beside = with_result(), Beside(history=HISTORY)
    text = formed(run_page(document, beside), "md")
    page = Html(formed(run_page(document, beside), "html"))
    shown = [row for row in rows(text) if not all(re.fullmatch(":?-+:?", cell) for cell in row)]
    assert [row for row in shown if any(row)] == page.rows
    lines = text.splitlines()
    assert lines[:3] == ["# zoo:digits\\_resnet", "", "**budget 2 ms (0.5x): met, 1.97 ms measured, 98.5% of it**"]
    assert "accuracy: 98.00% before, 97.22% after (exported engine), -0.78 points" in lines
    assert "```sh\nhwprune compress --model zoo:digits_resnet --seed 0\n```" in text
    assert "svg" not in text


@pytest.mark.parametrize("nasty", [NASTY, HOSTILE])
def test_names_are_text(nasty):
    page = Page(
        title=nasty,
        verdict=(Promise(nasty, True), Promise(nasty)),
        sections=(
            Section(
                title=nasty,
                words=(nasty,),
                command=f"run ```\n{nasty}",
                tables=(Table((nasty, "n"), [(nasty, Link(nasty, "x y/z.md"))], folded=nasty),),
            ),
        ),
    )
    text = markdown(page)
    prose, command, rest = re.split(r"^````+(?:sh)?$", text, flags=re.MULTILINE)
    assert nasty in command
    for line in (prose + rest).splitlines():
        if line.startswith("<details><summary>"):
            assert line.count("<") == 3
            continue
        bare = re.sub(r"\\.", "", line).replace("</details>", "").replace("(<x y/z.md>)", "")
        assert not re.search(r"[<>`_~$&!{}]", bare), line
    *_, body = (line for line in text.splitlines() if line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", body))) == 3


def test_a_long_table_says_how_much_is_left_out():
    table = Table(("n",), [(str(i),) for i in range(MOST_ROWS + 7)])
    text = markdown(Page(title="t", sections=(Section(title="", tables=(table,)),)))
    assert f"| {MOST_ROWS - 1} |" in text
    assert f"| {MOST_ROWS} |" not in text
    assert "and 7 more" in text


def test_control_characters_are_replaced():
    assert escaped("a\x1b[31m\x00b\nc") == "a\ufffd\\[31m\ufffdb c"


def test_same_run_gives_the_same_text():
    again = json.loads(json.dumps(DOCUMENT))
    assert formed(run_page(DOCUMENT), "md") == formed(run_page(again), "md")
