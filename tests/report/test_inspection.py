"""The document, the text and the picture of ``inspect``, on networks small enough to count by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.network import cut, inspection, trace
from hwprune.pruning import price
from hwprune.report import inspection_text, network_svg

from ..network.models import ResNet

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "a<b>&\"'</title><script>alert(1)</script> {{ 7 * 7 }}\x1b[31m\x00"


class Branches(nn.Module):
    """A residual, a grouped convolution, and a concatenation of two channel groups and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.rolled = nn.Conv2d(8, 4, 1)
        self.paired = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Conv2d(26, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.inner(x)
        x = x + self.outer(inner.relu())
        both = [x, inner, self.paired(x), torch.roll(self.rolled(x), 1, 1)]
        out: Tensor = self.head(torch.cat(both, 1))
        return out


class Stuck(nn.Module):
    """Many groups that stay whole for the same reason, in different places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Rolling() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Rolling(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(super().forward(x), 1, 1)


class Named(nn.Module):
    """Every layer's name is hostile."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(3):
            self.add_module(f"{HOSTILE}{i}", nn.Conv2d(3, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def seen(model: nn.Module) -> dict[str, Any]:
    return hwprune.inspect(model, input_shape=(1, 3, 8, 8))


def drawn(document: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(network_svg(document, title="a net"))


def titles(svg: ElementTree.Element) -> dict[str, str]:
    """Layer → its tooltip."""
    return {box.attrib["data-name"]: box.findtext(f"{SVG}title", "") for box in svg.iter() if "data-name" in box.attrib}


def looks(svg: ElementTree.Element) -> dict[str, str]:
    """Layer → class of its colour."""
    return {box.attrib["data-name"]: box.attrib["class"].split()[1] for box in svg.iter() if "data-name" in box.attrib}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return seen(Branches())


# -- the document ---------------------------------------------------------------------------------------------------


def test_numbers_counted_by_hand() -> None:
    found = seen(plain())
    convolution, linear = (27 + 1) * 8, 288 * 5 + 5
    macs = 36 * 27 * 8 + 288 * 5
    assert (found["cuttable"], found["frozen"]) == (1, 2)
    assert (found["parameters"], found["macs"]) == (convolution + linear, macs)
    assert found["groups"][0] == {
        "name": "0",
        "channels": 8,
        "positions": 1,
        "tensors": 3,  # weight and bias of the convolution, weight of the linear layer
        "attributes": [],
        "parameters": 7 * 28 + 7 * 36 * 5,
        "macs": 36 * 27 * 7 + 7 * 36 * 5,
        "frozen": None,
    }
    assert {group["name"]: group["frozen"] for group in found["groups"][1:]} == {
        "input of 0": "reads the network's input, whose size is fixed (convolution in 0)",
        "3": "the model's output",
    }
    assert found["reachable"] == {
        "parameters": pytest.approx(7 * (28 + 180) / (convolution + linear)),
        "macs": pytest.approx(7 * (36 * 27 + 180) / macs),
    }
    assert [(layer["name"], layer["width_in"], layer["width_out"]) for layer in found["layers"]] == [
        ("0", 3, 8),
        ("1", 8, 8),
        ("3", 288, 5),
    ]
    assert [(edge["maker"], edge["readers"], edge["shape"]) for edge in found["edges"]] == [
        (None, ["0"], [1, 3, 8, 8]),
        ("0", ["1"], [1, 8, 6, 6]),
        ("1", ["3"], [1, 8, 6, 6]),
        ("3", [], [1, 5]),
    ]


def test_blocks_are_listed_with_what_goes_with_them() -> None:
    torch.manual_seed(0)
    model, image = ResNet().eval(), torch.zeros(1, 3, 16, 16)
    network = trace(model, image)
    found = inspection(network)
    (block,) = found["blocks"]
    without = trace(cut(model, network.cuts({name: [] for name in block["groups"]})), image, verify=False)
    assert block["name"] == "layer1"
    assert block["parameters"] == found["parameters"] - without.total_parameters
    assert block["macs"] == found["macs"] - without.macs_at(without.dense_widths)
    assert set(block["layers"]) == {layer.name for layer in network.layers if layer.present == "layer1.conv1"}
    (line,) = (one for one in inspection_text(found).splitlines() if one.startswith("  layer1: "))
    assert line.endswith(" of MACs")
    assert "blocks" not in inspection_text(seen(plain()))


def test_what_is_reachable_is_what_a_cut_leaves_and_the_solver_counts() -> None:
    model = Branches().eval()
    network = trace(model, torch.zeros(1, 3, 8, 8))
    found = inspection(network)
    smaller = hwprune.cut(model, network.cuts({group.name: [0] for group in network.cuttable}))
    left = sum(parameter.numel() for parameter in smaller.parameters())
    assert found["reachable"]["parameters"] == pytest.approx(1 - left / found["parameters"])
    pricing = price(network, "macs")
    assert found["macs"] == pricing.value(pricing.dense)
    one = {group.name: 1 for group in network.cuttable}
    assert found["reachable"]["macs"] == pytest.approx(1 - pricing.value(one) / pricing.value(pricing.dense))


def test_steps_groups_and_reasons(document: dict[str, Any]) -> None:
    groups = {group["name"]: group for group in document["groups"]}
    steps = {name: (group["channels"], group["positions"]) for name, group in groups.items()}
    assert steps["inner"] == (6, 1)
    assert steps["stem"] == (2, 4)  # the halves of the grouped convolution, and of all that it is added to
    layers = {layer["name"]: (layer["groups"], layer["frozen"]) for layer in document["layers"]}
    assert layers["relu"] == (["inner"], [])
    assert layers["roll"] == ([], ["rolled"])  # as the convolution that it reads
    assert layers["head"] == ([], ["head"])
    assert layers["cat"] == (["stem", "inner"], [])


def test_a_layer_without_weights_stays_whole_for_the_nearest_reason() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rolled, self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.roll(self.rolled(x[:, 0]), 1, 2)
            return (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)

    found = seen(Attention())
    frozen = {layer["name"]: layer["frozen"] for layer in found["layers"]}
    assert frozen["roll"] == ["rolled"]
    assert frozen["softmax"] == ["query", "key"]


def test_the_second_use_of_a_layer_is_frozen_as_the_first() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return self.head(x), self.head(x.relu())

    found = seen(Twice())
    assert {layer["name"]: layer["frozen"] for layer in found["layers"]}["head#2"] == ["head"]
    assert titles(drawn(found))["head#2"].endswith("cannot be cut: head: the model's output")


# -- the text -------------------------------------------------------------------------------------------------------


def test_text_of_what_can_be_cut(document: dict[str, Any]) -> None:
    lines = inspection_text(document).splitlines()
    groups = len(document["groups"])
    assert lines[0].startswith(
        f"{document['cuttable']} of {groups} channel groups can be cut; with one step of each left, "
    )
    rows = {
        parts[1].strip(): [part.strip() for part in parts[2:-1]] for line in lines if (parts := line.split("│"))[1:]
    }
    assert rows["inner"][:3] == ["6", "1 channel", "4"]
    assert rows["stem"][:2] == ["2", "4 channels"]
    assert "  head (2): the model's output" in lines


def test_text_never_rounds_a_share_up_to_all() -> None:
    share = {"parameters": 0.99996, "macs": 1.0}
    text = inspection_text({**seen(plain()), "reachable": share})
    assert "99.9% of 1.669 k parameters and 100.0% of 9.216 k multiply-accumulates" in text


def test_groups_with_the_same_reason_share_a_line() -> None:
    found = seen(Stuck())
    text = inspection_text(found)
    assert text.startswith("nothing in this model can be cut: none of its 7 channel groups\n")
    assert "  layers.0 (3), layers.1 (3) and 4 more (--all): channels are moved by a fixed offset (roll)\n" in text
    everything = inspection_text(found, every=True)
    for i in range(6):
        assert f"  layers.{i} (3): channels are moved by a fixed offset (roll in layers.{i})" in everything


def test_text_of_a_model_without_layers() -> None:
    found = seen(nn.Flatten())
    assert inspection_text(found) == "nothing in this model can be cut: it has no layer with channels"
    assert drawn(found) is not None


# -- the picture ----------------------------------------------------------------------------------------------------


def test_picture_has_every_layer_once_and_every_edge(document: dict[str, Any]) -> None:
    svg = drawn(document)
    boxes = Counter(box.attrib["data-name"] for box in svg.iter() if "data-name" in box.attrib)
    assert boxes == Counter(layer["name"] for layer in document["layers"])
    edges = Counter((path.attrib["data-from"], path.attrib["data-to"]) for path in svg.iter(f"{SVG}path"))
    wanted = [(edge["maker"] or "input", reader) for edge in document["edges"] for reader in edge["readers"]]
    assert edges == Counter([*wanted, ("head", "output")])


def test_colours_follow_the_groups(document: dict[str, Any]) -> None:
    svg = drawn(document)
    look = looks(svg)
    assert look["stem"] == look["outer"] == look["add"] != look["inner"] == look["relu"]
    assert look["cat"] == "several"
    assert look["rolled"] == look["roll"] == look["head"] == "whole"
    for path in svg.iter(f"{SVG}path"):
        if path.attrib["data-from"] in ("stem", "inner", "relu"):
            assert path.attrib["class"] == f"edge {look[path.attrib['data-from']]}"
    legend = {key.attrib["class"].split()[1]: "".join(key.itertext()) for key in svg.iter() if _is_key(key)}
    assert "inner: 6 channels" in legend[look["inner"]]
    assert "stem: 2×4 channels" in legend[look["paired"]]


def _is_key(element: ElementTree.Element) -> bool:
    return element.attrib.get("class", "").startswith("key ")


def test_tooltips_say_the_group_or_why_there_is_none(document: dict[str, Any]) -> None:
    title = titles(drawn(document))
    assert title["relu"] == "relu\nrelu, output 1×6×8×8\nchannel group: inner"
    assert title["roll"].endswith(
        "cannot be cut: rolled: channels are moved by a fixed offset (roll in the model itself)"
    )


def test_only_the_most_expensive_groups_have_a_colour_of_their_own() -> None:
    widths = [3, *range(4, 24)]
    found = seen(nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))))
    assert found["cuttable"] == 19
    svg = drawn(found)
    look = looks(svg)
    assert [look[str(i)] for i in range(20)] == [*["other"] * 7, *(f"g{i}" for i in range(1, 13)), "whole"]
    assert sum(_is_key(element) for element in svg.iter()) == 12 + 3


def test_rows_go_down_and_boxes_keep_apart(document: dict[str, Any]) -> None:
    places = {}
    for box in drawn(document).iter():
        if "data-name" in box.attrib:
            x, y = map(float, re.findall(r"-?[\d.]+", box.attrib["transform"]))
            places[box.attrib["data-name"]] = (x, y, float(box[1].attrib["width"]))
    for edge in document["edges"]:
        for reader in edge["readers"] if edge["maker"] else ():
            assert places[edge["maker"]][1] < places[reader][1]
    for name, (x, y, width) in places.items():
        for other, (its, row, _) in places.items():
            assert name == other or row != y or its > x + width or its < x, (name, other)


def test_nothing_that_a_user_names_becomes_markup() -> None:
    found = seen(Named())
    text = network_svg(found, title=HOSTILE)
    svg = ElementTree.fromstring(text)
    assert not list(svg.iter(f"{SVG}script"))
    shown = HOSTILE.replace("\x1b", "\ufffd").replace("\x00", "\ufffd")
    assert titles(svg).keys() == {f"{shown}{i}" for i in range(3)}
    assert "\x1b" not in inspection_text(found)


def test_the_picture_stands_alone_and_is_the_same_every_time(tmp_path: Path) -> None:
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        hwprune.inspect("zoo:digits_resnet", input_shape=(1, 1, 8, 8), svg=file)
    assert files[0].read_bytes() == files[1].read_bytes()
    content = files[0].read_text()
    assert not re.search(r"href|url\(|@import|<script", content)
    assert "prefers-color-scheme: dark" in content


def test_a_document_that_was_stored_gives_the_same_picture(document: dict[str, Any]) -> None:
    assert network_svg(json.loads(json.dumps(document)), title="x") == network_svg(document, title="x")


def test_another_batch_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    found = hwprune.inspect(plain(), input_shape=(4, 3, 8, 8))
    assert (found["cuttable"], found["edges"][0]["shape"]) == (1, [4, 3, 8, 8])
    with pytest.raises(OSError, match="missing"):
        hwprune.inspect(plain(), input_shape=(1, 3, 8, 8), svg=tmp_path / "missing" / "net.svg")
