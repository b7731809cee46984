"""What a device is and what else it does. Texts of machines that are not here are synthetic, after the formats."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune import device_facts, device_runner

# synthetic: the formats of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`
H100 = "NVIDIA H100 80GB HBM3, 550.54.15, 345, 1980, 2619, 700.00\n"
ORIN = "Orin (nvgpu), N/A, [N/A], [N/A], [N/A], [Not Supported]\n"
TWO = H100 + "NVIDIA L4, 550.54.15, 210, 2040, 405, 72.00\n"
QUOTED = '"Card, with a comma", 1.0, 345, 1980, 2619, 700.00\n'


def facts(text: str) -> list[Any]:
    return list(device_facts._gpu_facts(text).values())


def test_what_nvidia_smi_tells() -> None:
    assert device_facts._gpu_facts(H100) == {
        "gpu": "NVIDIA H100 80GB HBM3",
        "gpu_driver": "550.54.15",
        "gpu_clock_mhz": 345.0,
        "gpu_max_clock_mhz": 1980.0,
        "gpu_memory_clock_mhz": 2619.0,
        "gpu_power_limit_w": 700.0,
    }
    assert facts(TWO) == facts(H100)
    assert facts(QUOTED)[0] == "Card, with a comma"
    assert facts(ORIN) == ["Orin (nvgpu)", "N/A", None, None, None, None]


@given(st.one_of(st.text(), st.text(st.sampled_from('0123456789.,[]"NA \n'))))
def test_whatever_it_prints(text: str) -> None:
    found = device_facts._gpu_facts(text)
    assert len(found) == 6
    assert all(value is None or isinstance(value, (str, float)) for value in found.values())


@pytest.mark.parametrize(
    ("text", "mode"),
    [  # synthetic: the format of `nvpmodel -q`
        ("NV Power Mode: MAXN\n0\n", "MAXN"),
        ("NVPM WARN: power mode is not set!\nNV Power Mode: 15W\n2\n", "15W"),
        ("", None),
        ("NVPM ERROR: not a Jetson", None),
    ],
)
def test_what_nvpmodel_tells(text: str, mode: str | None) -> None:
    assert device_facts._power_mode(text) == mode


def programs(monkeypatch: pytest.MonkeyPatch, **outputs: str) -> list[list[str]]:
    """Programs that print; all others are missing."""
    asked: list[list[str]] = []

    def run(command: Any, **_: Any) -> Any:
        asked.append(list(command))
        if command[0].replace("-", "_") not in outputs:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=outputs[command[0].replace("-", "_")].encode(), returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_a_gpu_is_asked_for_only_where_it_runs_something(monkeypatch: pytest.MonkeyPatch) -> None:
    platform.platform()  # the standard library asks programs of its own, once
    asked = programs(monkeypatch, nvidia_smi=H100, nvpmodel="NV Power Mode: MAXN\n0\n")
    assert "gpu" not in device_facts.identity()
    found = device_facts.identity(gpu=True)
    assert (found["gpu"], found["power_mode"]) == ("NVIDIA H100 80GB HBM3", "MAXN")
    assert asked == [
        ["nvpmodel", "-q"],
        ["nvpmodel", "-q"],
        [
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit",
            "--format=csv,noheader,nounits",
        ],
    ]


def test_a_gpu_that_nobody_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch)
    found = device_facts.identity(gpu=True)
    assert {found[name] for name in device_facts._GPU} == {None}


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("x"), PermissionError("x"), subprocess.TimeoutExpired("x", 1), None]
)
def test_programs_that_fail(monkeypatch: pytest.MonkeyPatch, failure: Exception | None) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if failure:
            raise failure
        return SimpleNamespace(stdout=b"what went wrong", returncode=9)

    monkeypatch.setattr(subprocess, "run", run)
    assert device_facts._output("nvidia-smi") == ""


def test_another_gpu_or_power_mode_is_another_device() -> None:
    device = {"cpu": "A", "gpu": "NVIDIA L4", "power_mode": "MAXN", "gpu_clock_mhz": 210.0}
    assert device_runner.same_device(device, {**device, "gpu_clock_mhz": 2040.0}) == []
    assert device_runner.same_device(device, {**device, "gpu": "NVIDIA T4", "power_mode": "15W"}) == [
        "gpu",
        "power_mode",
    ]


# -- load ----------------------------------------------------------------------------------------------------

STAT = "cpu  {user} 0 {system} {idle} 50 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"


class Machine:
    """A machine whose clocks are set by hand; 100 ticks of /proc/stat are a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, str] = {}
        self.own = 0.0
        self.now = 1000.0

        def read_text(path: Path, **_: Any) -> str:
            if str(path) not in self.files:
                raise OSError(2, "No such file", str(path))
            return self.files[str(path)]

        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=self.own, system=0.0, elapsed=self.now))
        monkeypatch.setattr(os, "sysconf", lambda _: 100)

    def stat(self, *, user: float, idle: float) -> None:
        self.files["/proc/stat"] = STAT.format(user=round(user * 100), system=0, idle=round(idle * 100))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_cpus_that_others_kept_busy(machine: Machine) -> None:
    machine.stat(user=50, idle=10)
    load = device_facts.Load()
    machine.now, machine.own = 1010, 8  # 10 s, of which this process worked 8
    machine.stat(user=50 + 23, idle=10 + 17)  # 40 CPU seconds on 4 CPUs
    assert load()["other_cpus"] == 1.5


def test_nobody_else(machine: Machine) -> None:
    machine.stat(user=50, idle=10)
    load = device_facts.Load()
    machine.now, machine.own = 1010, 10.02  # ticks are coarse: a little more than the system saw
    machine.stat(user=60, idle=10)
    assert load()["other_cpus"] == 0.0


@pytest.mark.parametrize("stat", [None, "", "cpu 1 2 3\n"])
def test_no_ticks(machine: Machine, stat: str | None) -> None:
    if stat is not None:
        machine.files["/proc/stat"] = stat
    load = device_facts.Load()
    machine.now += 10
    assert load()["other_cpus"] is None


def test_too_short_to_tell(machine: Machine) -> None:
    machine.stat(user=0, idle=0)
    load = device_facts.Load()
    machine.now += 0.05
    assert load()["other_cpus"] is None


def test_pressure(machine: Machine) -> None:
    machine.files["/proc/pressure/cpu"] = "some avg10=1.25 avg60=0.50 avg300=0.10 total=123\nfull avg10=0.00\n"
    assert device_facts.Load()()["psi_some_avg10"] == 1.25
    machine.files["/proc/pressure/cpu"] = "off"
    assert device_facts.Load()()["psi_some_avg10"] is None


def test_the_load_of_this_machine() -> None:
    import time

    load = device_facts.Load()
    time.sleep(0.15)
    found = load()
    assert set(found) == {"psi_some_avg10", "load1", "other_cpus"}
    if Path("/proc/stat").exists():
        assert 0 <= found["other_cpus"] <= (os.cpu_count() or 1) + 1
