"""What a network costs: latency tables, how they are measured, and what they predict."""

from __future__ import annotations

from hwprune.latency.alone import profile_alone as profile_alone
from hwprune.latency.bench import Bench as Bench
from hwprune.latency.bench import probe_model as probe_model
from hwprune.latency.bench import probe_models as probe_models
from hwprune.latency.entry import Entry as Entry
from hwprune.latency.entry import HeldOut as HeldOut
from hwprune.latency.fusion import FusionRules as FusionRules
from hwprune.latency.fusion import fused_into as fused_into
from hwprune.latency.in_context import NetworkProfiler as NetworkProfiler
from hwprune.latency.in_context import Subject as Subject
from hwprune.latency.isolate import null_model as null_model
from hwprune.latency.key import Key as Key
from hwprune.latency.key import key_of as key_of
from hwprune.latency.key import sizes_of as sizes_of
from hwprune.latency.layer import Layer as Layer
from hwprune.latency.layer import Operand as Operand
from hwprune.latency.prediction import LayerLatency as LayerLatency
from hwprune.latency.prediction import Prediction as Prediction
from hwprune.latency.prediction import layer_costs as layer_costs
from hwprune.latency.prediction import predict as predict
from hwprune.latency.sampling import allowed_widths as allowed_widths
from hwprune.latency.sampling import group_step as group_step
from hwprune.latency.table import LatencyTable as LatencyTable
from hwprune.latency.table import Lookup as Lookup

__all__ = [
    "Bench",
    "Entry",
    "FusionRules",
    "HeldOut",
    "Key",
    "LatencyTable",
    "Layer",
    "LayerLatency",
    "Lookup",
    "NetworkProfiler",
    "Operand",
    "Prediction",
    "Subject",
    "allowed_widths",
    "fused_into",
    "group_step",
    "key_of",
    "layer_costs",
    "null_model",
    "predict",
    "probe_model",
    "probe_models",
    "profile_alone",
    "sizes_of",
]
