"""What leaves the house: the exported engine, its proof of parity and latency, and the bundle around it."""

from __future__ import annotations

from hwprune.deploy.accuracy import Gates as Gates
from hwprune.deploy.bundle import Bundle as Bundle
from hwprune.deploy.bundle import verify as verify
from hwprune.deploy.engine import predictor as predictor
from hwprune.deploy.engine import run_engine as run_engine
from hwprune.deploy.export import OnnxInfo as OnnxInfo
from hwprune.deploy.export import export_onnx as export_onnx
from hwprune.deploy.formats import check_deliverable as check_deliverable
from hwprune.deploy.forms import Asked as Asked
from hwprune.deploy.latency import Latency as Latency
from hwprune.deploy.latency import Measurement as Measurement
from hwprune.deploy.latency import PairMeasurement as PairMeasurement
from hwprune.deploy.latency import measure_one as measure_one
from hwprune.deploy.latency import measure_pair as measure_pair
from hwprune.deploy.memory import Memory as Memory
from hwprune.deploy.memory import channel_block as channel_block
from hwprune.deploy.memory import measure_memory as measure_memory
from hwprune.deploy.packing import pack as pack
from hwprune.deploy.packing import packed_size as packed_size
from hwprune.deploy.packing import unpack as unpack
from hwprune.deploy.parity import Parity as Parity
from hwprune.deploy.parity import compare as compare
from hwprune.deploy.signing import SigningKey as SigningKey
from hwprune.deploy.storage import Storage as Storage
from hwprune.deploy.writing import write_bundle as write_bundle

__all__ = [
    "Asked",
    "Bundle",
    "Gates",
    "Latency",
    "Measurement",
    "Memory",
    "OnnxInfo",
    "PairMeasurement",
    "Parity",
    "SigningKey",
    "Storage",
    "channel_block",
    "compare",
    "export_onnx",
    "measure_memory",
    "measure_one",
    "measure_pair",
    "pack",
    "packed_size",
    "predictor",
    "run_engine",
    "unpack",
    "verify",
    "write_bundle",
]
