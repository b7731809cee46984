"""What a network costs: latency tables, how they are measured, and what they predict."""

from __future__ import annotations

from hwprune.latency.entry import Entry as Entry
from hwprune.latency.fusion import fused_into as fused_into
from hwprune.latency.key import Key as Key
from hwprune.latency.key import key_of as key_of
from hwprune.latency.key import sizes_of as sizes_of
from hwprune.latency.layer import Layer as Layer
from hwprune.latency.layer import Operand as Operand
from hwprune.latency.prediction import LayerLatency as LayerLatency
from hwprune.latency.prediction import Prediction as Prediction
from hwprune.latency.prediction import layer_costs as layer_costs
from hwprune.latency.prediction import predict as predict
from hwprune.latency.profiler import profile as profile
from hwprune.latency.sampling import allowed_widths as allowed_widths
from hwprune.latency.table import LatencyTable as LatencyTable
from hwprune.latency.table import Lookup as Lookup

__all__ = [
    "Entry",
    "Key",
    "LatencyTable",
    "Layer",
    "LayerLatency",
    "Lookup",
    "Operand",
    "Prediction",
    "allowed_widths",
    "fused_into",
    "key_of",
    "layer_costs",
    "predict",
    "profile",
    "sizes_of",
]
