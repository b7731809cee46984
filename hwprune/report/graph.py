"""The picture of a network: layers from top to bottom, activations between them, coloured by channel group.

A layer's row is its longest way from an input. What goes on from row to row (layer after layer, an activation that
is read much later) is a column, straight from top to bottom. Columns stand side by side; they are placed one by one,
long ones of layers first, each as near to what it is joined to as there is room. All of it is made from the document
of ``inspect``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len

from hwprune.report.html import rendered
from hwprune.report.inspection import inspection_verdict, readable

MOST_COLOURS = 12  # groups with a colour of their own; more could not be told apart
MOST_LETTERS = 40  # of a name; tooltips have all of it
ROW, HEIGHT, LETTER, CHIP, GAP = 38.0, 20.0, 6.7, 20.0, 10.0  # pixels; LETTER: one of 11 pixel monospace
LEGEND, LINE = 580.0, 18.0  # pixels: a column and a line of the legend


@dataclass(eq=False)
class Box:
    """A layer; or where an activation enters the network or leaves it.

    Attributes:
        name: of the layer; None at the ends of the network.
        label: what stands in the box.
        kind: what stands behind that: operation and widths.
        title: the tooltip.
        look: class of its colour.
        row: how many rows are above it.
        below: how many rows the longest way from it has.
        x: of its middle, in pixels; None until it is placed.
    """

    name: str | None
    label: str
    kind: str
    title: str
    look: str
    row: int = 0
    below: int = 0
    x: float | None = None

    @property
    def width(self) -> float:
        """Of the box, in pixels."""
        return CHIP + LETTER * (cell_len(self.label) + cell_len(self.kind) + 3)


@dataclass(eq=False)
class Wire:
    """An activation.

    Attributes:
        maker: the box that it comes from.
        readers: the boxes that it goes to.
        title: the tooltip.
        look: class of its colour.
        x: where it passes rows, in pixels; None until it is placed.
    """

    maker: Box
    readers: list[Box]
    title: str
    look: str
    x: float | None = None
    width = 0.0

    @property
    def passes(self) -> range:
        """The rows between its maker and its last reader."""
        return range(self.maker.row + 1, max(reader.row for reader in self.readers))


@dataclass(eq=False)
class Column:
    """Boxes, and wires that pass a row, one below the other without a gap.

    Attributes:
        top: the row of the first.
        parts: one in each row.
    """

    top: int
    parts: list[Box | Wire] = field(default_factory=list)

    @property
    def boxes(self) -> int:
        """How many of the parts are boxes."""
        return sum(isinstance(part, Box) for part in self.parts)


def network_svg(document: Mapping[str, Any], *, title: str) -> str:
    """One SVG file: a network with its channel groups in colour; what cannot be cut in grey, the reason as tooltip.

    Args:
        document: what ``hwprune.inspect`` returned.
        title: what the picture is about.
    """
    looks = _looks(document)
    boxes, wires = _read(document, looks)
    _arrange(boxes, wires)
    legend = _legend(document, looks)
    placed = [(box.x or 0.0, box.width) for box in boxes] + [(wire.x or 0.0, 0.0) for wire in wires]
    left = min([x - width / 2 for x, width in placed], default=0.0) - GAP
    right = max([x + width / 2 for x, width in placed], default=0.0) + GAP
    centre, width = (left + right) / 2, max(right - left, 2 * LEGEND)
    svg = rendered(
        "graph.svg.j2",
        title=title,
        verdict=inspection_verdict(document),
        legend=[(entry, LEGEND * (i % 2), LINE * (i // 2)) for i, entry in enumerate(legend)],
        boxes=boxes,
        edges=[(wire, reader, _path(wire, reader)) for wire in wires for reader in wire.readers],
        hues=[360 * index // MOST_COLOURS for index in range(MOST_COLOURS)],
        left=centre - width / 2,
        width=width,
        header=70 + LINE * ((len(legend) + 1) // 2),
        drawn=ROW * (max((box.row for box in boxes), default=0) + 1),
        row=ROW,
        height=HEIGHT,
        chip=CHIP,
    )
    return readable(svg)


# -- what is drawn ----------------------------------------------------------------------------------------------


def _looks(document: Mapping[str, Any]) -> dict[str, str]:
    """Cuttable group → class of its colour: the most expensive have their own, numbered from top to bottom."""
    cuttable = [group for group in document["groups"] if group["frozen"] is None]
    worth = {group["name"]: sum(_shares(group, document)) for group in cuttable}
    most = sorted(worth, key=lambda name: -worth[name])[:MOST_COLOURS]
    own = [name for name in worth if name in most]
    return {name: f"g{own.index(name) + 1}" if name in most else "other" for name in worth}


def _shares(group: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[float, float]:
    parameters, macs = (group[key] / max(1, document[key]) for key in ("parameters", "macs"))
    return parameters, macs


def _look(groups: list[str], looks: Mapping[str, str]) -> str:
    return "whole" if not groups else "several" if len(groups) > 1 else looks[groups[0]]


def _legend(document: Mapping[str, Any], looks: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Class, text and tooltip of every line of the legend."""
    lines = []
    for group in document["groups"]:
        look = looks.get(group["name"], "whole")
        if look.startswith("g"):
            parameters, macs = _shares(group, document)
            about = f"{group['channels']} channels, {parameters:.1%} of parameters, {macs:.1%} of MACs"
            if group["positions"] > 1:
                about = about.replace(" channels", f"×{group['positions']} channels")
            lines.append((look, f"{_short(group['name'], MOST_LETTERS - 10)}: {about}", group["name"]))
    others = [name for name, look in looks.items() if look == "other"]
    if others:
        lines.append(("other", f"{len(others)} other groups, named in the tooltips", "\n".join(others)))
    frozen = [f"{group['name']}: {group['frozen']}" for group in document["groups"] if group["frozen"]]
    lines.append(("several", "channels of several groups, named in the tooltips", ""))
    lines.append(("whole", "cannot be cut, for the reason in the tooltip", "\n".join(frozen)))
    return lines


def _read(document: Mapping[str, Any], looks: Mapping[str, str]) -> tuple[list[Box], list[Wire]]:
    """Boxes, each behind those that it reads, and wires."""
    reasons = {group["name"]: group["frozen"] for group in document["groups"]}
    layers = {layer["name"]: _layer(layer, looks, reasons) for layer in document["layers"]}
    inputs, outputs, wires = [], [], []
    for edge in document["edges"]:
        shape = "×".join(map(str, edge["shape"]))
        look = _look(edge["groups"], looks)
        readers = [layers[name] for name in edge["readers"]]
        if edge["output"]:
            outputs.append(Box(None, "output", shape, f"output of the network, {shape}", "end"))
            readers.append(outputs[-1])
        if edge["maker"] is None:
            inputs.append(Box(None, "input", shape, f"input of the network, {shape}", "end"))
        maker = inputs[-1] if edge["maker"] is None else layers[edge["maker"]]
        title = f"{edge['maker'] or 'input'}, {shape}\n{_groups(edge['groups'])}"
        wires.append(Wire(maker, readers, title, look))
    return [*inputs, *layers.values(), *outputs], wires


def _layer(layer: Mapping[str, Any], looks: Mapping[str, str], reasons: Mapping[str, str]) -> Box:
    name, op, width = layer["name"], layer["op"], layer["width_out"]
    if layer["weights"]:
        width = f"{layer['width_in']}→{width}"
    known = name.rpartition(".")[2].partition("#")[0] == op
    kind = " ".join(str(part) for part in ("" if known else op, width) if part)
    why = "\n".join(f"cannot be cut: {group}: {reasons[group]}" for group in layer["frozen"])
    about = f"{op}, output {'×'.join(map(str, layer['shape']))}"
    title = f"{name}\n{about}\n{why if why and not layer['groups'] else _groups(layer['groups'])}"
    return Box(name, _short(name), kind, title, _look(layer["groups"], looks))


def _groups(names: list[str]) -> str:
    return f"channel group{'s' if len(names) > 1 else ''}: {', '.join(names)}" if names else "not in a group to cut"


def _short(name: str, letters: int = MOST_LETTERS) -> str:
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


# -- where it stands --------------------------------------------------------------------------------------------


def _arrange(boxes: list[Box], wires: list[Wire]) -> None:
    """Give every box its row, and everything its place from left to right."""
    made: dict[Box, list[Wire]] = {box: [] for box in boxes}
    read: dict[Box, list[Wire]] = {box: [] for box in boxes}
    for wire in wires:
        made[wire.maker].append(wire)
        for reader in wire.readers:
            read[reader].append(wire)
    for box in boxes:
        box.row = max((wire.maker.row + 1 for wire in read[box]), default=0)
    for box in reversed(boxes):
        box.below = max((reader.below + 1 for wire in made[box] for reader in wire.readers), default=0)
    taken: dict[int, list[tuple[float, float]]] = {}
    for column in sorted(_columns(boxes, wires, made), key=_first):
        ends = [end for part in column.parts for end in _joined(part, made, read) if end is not None]
        x = _nearest(sum(ends) / len(ends) if ends else 0.0, _blocked(column, taken))
        for row, part in enumerate(column.parts, column.top):
            part.x = x
            taken.setdefault(row, []).append((x - part.width / 2, x + part.width / 2))


def _first(column: Column) -> tuple[int, int]:
    """Columns of layers go first, the longest first; then wires, the shortest first."""
    return -column.boxes, len(column.parts)


def _columns(boxes: list[Box], wires: list[Wire], made: Mapping[Box, list[Wire]]) -> list[Column]:
    """Everything in columns: from a box to the reader below it with the longest way to go, or along its wire."""
    rows: dict[int, list[Box | Wire]] = {}
    for box in sorted(boxes, key=lambda box: -box.below):
        rows.setdefault(box.row, []).append(box)
    for wire in wires:
        for row in wire.passes:
            rows.setdefault(row, []).append(wire)
    columns: list[Column] = []
    of: dict[tuple[int, Box | Wire], Column] = {}
    for row in sorted(rows):
        for part in rows[row]:
            if (row, part) not in of:
                columns.append(Column(row, [part]))
                of[row, part] = columns[-1]
            below = next((one for one in _below(part, row, made) if (row + 1, one) not in of), None)
            if below is not None:
                of[row, part].parts.append(below)
                of[row + 1, below] = of[row, part]
    return columns


def _below(part: Box | Wire, row: int, made: Mapping[Box, list[Wire]]) -> list[Box | Wire]:
    """What a column may go on with in the next row, the best first."""
    wires = made[part] if isinstance(part, Box) else [part]
    readers = dict.fromkeys(reader for wire in wires for reader in wire.readers if reader.row == row + 1)
    passing = [wire for wire in wires if row + 1 in wire.passes]
    ahead = sorted(readers, key=lambda box: -box.below)
    return [*passing, *ahead] if isinstance(part, Wire) else [*ahead, *passing]


def _joined(part: Box | Wire, made: Mapping[Box, list[Wire]], read: Mapping[Box, list[Wire]]) -> Iterator[float | None]:
    """Where everything stands that a box or a wire is joined to."""
    for wire in (*made[part], *read[part]) if isinstance(part, Box) else (part,):
        yield from (one.x for one in (wire.maker, *wire.readers) if one is not part)


def _blocked(column: Column, taken: Mapping[int, list[tuple[float, float]]]) -> Iterator[tuple[float, float]]:
    """The intervals in which the middle of a column cannot be."""
    for row, part in enumerate(column.parts, column.top):
        room = part.width / 2 + GAP
        yield from ((left - room, right + room) for left, right in taken.get(row, ()))


def _nearest(wanted: float, blocked: Iterable[tuple[float, float]]) -> float:
    """The place nearest to the one wanted that is in none of these open intervals."""
    blocked = list(blocked)
    low = high = wanted
    for left, right in sorted(blocked):
        high = right if left < high < right else high
    for left, right in sorted(blocked, key=lambda ends: -ends[1]):
        low = left if left < low < right else low
    return low if wanted - low < high - wanted else high


def _path(wire: Wire, reader: Box) -> str:
    """From the bottom of the maker, down where the wire passes rows, to the top of a reader."""
    maker, column = wire.maker, wire.x
    straight = reader.row == wire.maker.row + 1 or column is None
    x = (reader.x or 0.0) if straight else (column or 0.0)
    start, end = _port(maker, x), _port(reader, (maker.x or 0.0) if straight else x)
    if straight:
        return f"M{start:.1f} {ROW * maker.row + HEIGHT:.0f}{_bend(start, maker.row, end)}"
    down = f"V{ROW * (reader.row - 1) + HEIGHT:.0f}"
    return (
        f"M{start:.1f} {ROW * maker.row + HEIGHT:.0f}{_bend(start, maker.row, x)}{down}{_bend(x, reader.row - 1, end)}"
    )


def _bend(start: float, row: int, end: float) -> str:
    """From the bottom of a row to the top of the next one."""
    bottom, top = ROW * row + HEIGHT, ROW * (row + 1)
    middle = (bottom + top) / 2
    return f"C{start:.1f} {middle:.0f} {end:.1f} {middle:.0f} {end:.1f} {top:.0f}"


def _port(box: Box, x: float) -> float:
    """The place at the edge of a box that is nearest to ``x``; not quite at the corner."""
    own, room = box.x or 0.0, box.width / 2 - 4
    return min(max(x, own - room), own + room)
