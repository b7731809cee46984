"""Architectures of timm and torchvision, one after the other: ``zoo_worker.py [NAME SHAPE EXPORT]...``.

Prints what ``benchmarks/zoo/one.py`` finds, as a line of JSON for each. A process of its own, because to import
torchvision beside a CPU build of torch, operators have to be declared first.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/zoo"))
import one

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
for name, shape, export in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
    print(json.dumps(one.check(name, tuple(map(int, shape.split(","))), export=export == "True")), flush=True)
