"""Other people's models, as they are in timm and torchvision, on small inputs: traced, cut in half, replayed.

The whole zoo is in ``benchmarks/zoo``. ``make test`` installs both libraries apart; without them, this is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = [Path(sys.prefix) / "zoo", Path(sys.prefix) / "torchvision"]
WORKER = Path(__file__).parent / "zoo_worker.py"
MACS = 0.97  # share of the multiply-accumulates that go when one channel of every group is left

# name → side of the image, and the share of MACs that can be reached: products of one head cannot be, for instance
ARCHITECTURES: dict[str, tuple[int, float]] = {
    "timm:edgenext_xx_small": (64, 0.85),
    "timm:efficientvit_b0": (64, MACS),
    "timm:fasternet_t0": (64, MACS),
    "timm:ghostnet_050": (64, MACS),
    "timm:hrnet_w18_small": (64, MACS),
    "timm:lcnet_035": (64, MACS),
    "timm:mobileone_s0": (64, MACS),
    "timm:mobilevit_xxs": (64, MACS),
    "timm:pit_ti_224": (224, 0.87),
    "timm:poolformer_s12": (64, MACS),
    "timm:regnety_002": (64, MACS),
    "timm:repvgg_a0": (64, MACS),
    "timm:resnest14d": (64, 0.45),
    "timm:starnet_s050": (64, MACS),
    "timm:swin_tiny_patch4_window7_224": (224, MACS),
    "timm:test_byobnet": (64, MACS),
    "timm:test_convnext": (64, MACS),
    "timm:test_efficientnet": (64, MACS),
    "timm:test_mambaout": (64, MACS),
    "timm:test_vit": (64, MACS),
    "torchvision:densenet121": (64, MACS),
    "torchvision:detection.ssdlite320_mobilenet_v3_large": (96, MACS),
    "torchvision:googlenet": (64, MACS),
    "torchvision:mnasnet0_5": (64, MACS),
    "torchvision:mobilenet_v2": (64, MACS),
    "torchvision:mobilenet_v3_small": (64, MACS),
    "torchvision:segmentation.lraspp_mobilenet_v3_large": (64, MACS),
    "torchvision:shufflenet_v2_x0_5": (64, MACS),
    "torchvision:squeezenet1_1": (64, MACS),
}
EXPORTED = {"timm:test_vit", "timm:mobilevit_xxs", "torchvision:shufflenet_v2_x0_5", "torchvision:googlenet"}


@pytest.fixture(scope="session")
def found():
    if not all(folder.is_dir() for folder in LIBRARIES):
        pytest.skip("timm and torchvision are not installed apart; make test does that")
    given = [(name, f"1,3,{side},{side}", str(name in EXPORTED)) for name, (side, _) in ARCHITECTURES.items()]
    command = [sys.executable, "-W", "ignore", str(WORKER), *(word for one in given for word in one)]
    paths = os.pathsep.join(filter(None, [*map(str, LIBRARIES), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-2000:]
    return {one["model"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_that_hwprune_does_not_know(name, found):
    one = found[name]
    assert one["passed"], f"{one['stage']}: {one.get('reason')}"
    assert one["error"] < 1e-4
    assert one["macs"] >= ARCHITECTURES[name][1]
    assert one["kept"] < 1 - 0.4 * one["parameters"]
    assert ("export_error" in one) == (name in EXPORTED)
