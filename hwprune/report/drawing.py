"""Matplotlib figures as SVG elements that stand in a page: its colours and fonts, and what things are on hover."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from hwprune.report.inspection import readable

# What is drawn in these colours has the style sheet's variable of that name, which is another one in the dark.
COLOURS = {
    "ink": "#1c2733",
    "before": "#c6d3e3",
    "between": "#6f8fb4",
    "after": "#2f5d8c",
    "frozen": "#d9d9d9",
    "limit": "#b03a2e",
}
INK, BEFORE, BETWEEN, AFTER, FROZEN, LIMIT = COLOURS.values()
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_TITLED = "titled:"
_STYLE: dict[Any, Any] = {  # names are checked by matplotlib
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "hwprune",  # the same run gives the same page
    "text.parse_math": False,  # a dollar in a layer's name is a dollar
}
P = ParamSpec("P")


def drawing(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Make of a function that draws a figure one that gives the ``svg`` element."""

    @wraps(draw)
    def drawn(*given: P.args, **named: P.kwargs) -> str:
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # Letters that matplotlib's font lacks are drawn by the browser, which has others.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return _element(draw(*given, **named))

    return drawn


def entitle(artist: Artist, text: str) -> None:
    """Show a text where the pointer rests on something drawn."""
    artist.set_gid(_TITLED + readable(text))


def _element(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", buffer.getvalue().decode()))
    kept = {name for pair in used for name in pair}
    for element in root.iter():
        _adapt(element, kept)
    root.attrib = {"viewBox": root.attrib["viewBox"]}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, kept: set[str]) -> None:
    """Take an element into the page: no namespaces, no names that nothing refers to, no style for all that is there."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for child in [child for child in element if child.tag.rpartition("}")[2] in ("metadata", "style")]:
        element.remove(child)
    if "style" in element.attrib:
        element.set("style", _COLOUR.sub(lambda found: _VARIABLES[found[0]], element.attrib["style"]))
    name = element.attrib.get("id", "")
    if name not in kept:
        element.attrib.pop("id", None)
    if name.startswith(_TITLED):
        title = ElementTree.Element("title")
        title.text = name.removeprefix(_TITLED)
        element.insert(0, title)
