"""A run that never was, and what reads its page."""

import copy
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

HOSTILE = '<script>alert("x")</script> & $\\frac{'
RESULT = {
    "budget": 2.0,
    "budget_metric": "latency_ms",
    "budget_requested": "0.5x",
    "budget_met": True,
    "budget_used": 0.985,
    "predicted": 1.95,
    "measured": 1.97,
    "metric": "accuracy",
    "accuracy": 0.9722,
    "accuracy_of": "exported engine",
    "baseline_accuracy": 0.98,
    "predicted_latency_ms": 1.95,
    "measured_latency_ms": 1.97,
    "baseline_latency_ms": 4.0,
    "latency_ratio": [0.4925, 0.49, 0.495],
    "parameters": 120_000,
    "baseline_parameters": 480_000,
    "macs": 3.2e6,
    "baseline_macs": 1.6e7,
    "size_bytes": 490_123,
    "baseline_size_bytes": 1_930_000,
    "memory_of": "weights and activations",
    "predicted_memory_bytes": 700_000,
    "measured_memory_bytes": 703_000,
    "baseline_memory_bytes": 2_500_000,
}
DOCUMENT = {
    "config": {"model": "zoo:digits_resnet", "seed": 0},
    "device": {"cpu": "AMD EPYC"},
    "versions": {"torch": "2.13"},
    "result": RESULT,
    "groups": [
        {"name": "stem", "channels": 32, "kept": 16, "frozen": None},
        {"name": "head", "channels": 10, "kept": 10, "frozen": "model output"},
    ],
    "layers": [
        {"name": "stem", "before_ms": 3.0, "after_ms": 1.5, "source": "measured"},
        {"name": "relu", "before_ms": 0.0, "after_ms": 0.0, "source": "fused into stem"},
    ],
    "stages": {"settle": {"trials": [{"predicted": 4.2, "measured": 4.0}, {"predicted": 2.0, "measured": 1.97}]}},
}
HISTORY = [
    {"event": "prune_epoch", "epoch": 1, "loss": 0.5, "metric": 0.91, "widths": {"stem": 24}},
    {"event": "trial", "predicted": 2.0, "measured": 1.97, "limit": 2.0},
    {"event": "epoch", "attempt": 0, "epoch": 1, "loss": 0.25, "metric": 0.97},
]


def with_result(**changes):
    document = copy.deepcopy(DOCUMENT)
    document["result"].update(changes)
    return document


SPARSE = {
    "rule": "granet",
    "requested": "sparsity 90%",
    "met": True,
    "sparsity": 0.9012,
    "weights": 1000,
    "zeros": 901,
    "densities": {"stem.weight": 0.25, HOSTILE: 0.0125},
    "left_out": {"pos_embed": "excluded by name"},
    "storage": "gap8-int8",
    "stored_bytes": 12_340,
    "dense_stored_bytes": 123_400,
    "remark": "The stored file takes 61.7% of its budget.",
}

UPDATES = {
    "weights": [
        {
            "step": 10 * turn,
            "density": 0.5,
            "densities": {"stem.weight": 0.5, HOSTILE: 0.25},
            "iou": 0.9,
            "survived": survived,
        }
        for turn, survived in ((1, None), (2, 0.75), (3, 0.8))
    ],
    "channels": [{"epoch": epoch, "widths": {"stem": 32 - 8 * epoch}} for epoch in (1, 2)],
    "grown": [{"call": 9, "grown": 3, "explored": 20}],
}
LATENCY = {
    "p50_ms": 1.97,
    "p90_ms": 2.1,
    "min_ms": 1.9,
    "iqr_ms": 0.0985,
    "cpu_p50_ms": None,
    "repeats": 240,
    "clean": 234,
}
MANIFEST = {
    "schema_version": 1,
    "target": {"name": "local-onnxruntime", "runtime": "onnxruntime", "batch": 1},
    "engine": {"file": "model.onnx", "precision": "fp32"},
    "parity": {"samples": 64, "relative_l2": 4e-7, "cosine": 1.0, "top1_agreement": None},
    "latency": {"predicted_ms": 1.95, "measured_ms": LATENCY, "baseline_ms": {**LATENCY, "p50_ms": 4.0}, "ratio": None},
    "accuracy": {"metric": "accuracy", "source": 0.97, "artifact": 0.97, "dense": 0.98},
    "budget": {"metric": "latency_ms", "requested": "0.5x", "limit": 2.0},
    "preprocessing": {},
    "device": {"cpu": "AMD EPYC", "isa": ["avx", "avx2"]},
    "versions": {"torch": "2.13"},
    "files": {"model.onnx": {"sha256": "89f9" * 16, "bytes": 490_123}},
}


class Page(HTMLParser):
    """Text of every table row, and everything that could load or run something."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.open, self.text = [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def pictures(html):
    """Every ``svg`` element of a page."""
    return re.findall(r"<svg.*?</svg>", html, re.DOTALL)


def words(svg):
    """All text that is drawn."""
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter() if one.tag == "text"]


def tooltips(svg):
    """What is said on hover."""
    return [one.text for one in ElementTree.fromstring(svg).iter("title")]
