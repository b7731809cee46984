"""What a device is, and what else it is doing; stands beside ``device_runner.py`` on every device."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_ISA = ("sse4", "avx", "fma", "f16c", "amx", "neon", "asimd", "fphp", "i8mm", "bf16", "sve")  # prefixes of CPU flags
_GPU = {  # field of ours: nvidia-smi's, in the units that it is named for
    "gpu": "name",
    "gpu_driver": "driver_version",
    "gpu_clock_mhz": "clocks.sm",
    "gpu_max_clock_mhz": "clocks.max.sm",
    "gpu_memory_clock_mhz": "clocks.mem",
    "gpu_power_limit_w": "power.limit",
}


def identity(*, gpu: bool = False) -> dict[str, Any]:
    """What identifies this device and explains its speed; None where the system does not tell.

    Args:
        gpu: also the first GPU that nvidia-smi knows: its name, driver, clocks and power limit.
    """
    pairs = (line.partition(":") for line in _text("/proc/cpuinfo").splitlines())
    cpu = {key.strip(): value.strip() for key, _, value in pairs}
    board = f"{_text('/proc/device-tree/model')} {cpu.get('CPU part', '')}".strip()  # ARM has no model name
    query = ",".join(_GPU.values())
    old = "/sys/fs/cgroup/cpu/cpu.cfs_"
    quota = _text("/sys/fs/cgroup/cpu.max").split() or [_text(old + end) for end in ("quota_us", "period_us")]
    return {
        "cpu": cpu.get("model name") or board or platform.processor() or None,
        "isa": sorted(flag for flag in (cpu.get("flags") or cpu.get("Features", "")).split() if flag.startswith(_ISA)),
        "machine": platform.machine(),
        "logical_cpus": os.cpu_count(),
        "affinity_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup_cpus": int(quota[0]) / int(quota[1]) if all(part.isdigit() for part in quota) else None,
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "power_mode": _power_mode(_output("nvpmodel", "-q")),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        **(_gpu_facts(_output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")) if gpu else {}),
    }


class Load:
    """What others do on the device, from now until it is called."""

    def __init__(self) -> None:
        self._begin = _used()

    def __call__(self) -> dict[str, Any]:
        """Pressure on the processors, load, and CPUs that other processes kept busy; None where nothing tells."""
        words = _text("/proc/pressure/cpu").replace("=", " ").split()  # "some avg10=0.12 avg60=…"
        return {
            "psi_some_avg10": float(words[2]) if words[:2] == ["some", "avg10"] else None,
            "load1": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "other_cpus": _rate(self._begin, _used()),
        }


def switches() -> int:
    """Involuntary context switches of this process so far."""
    import resource  # not on Windows, where nothing tells that a measurement was disturbed: there is none

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def waited_ns() -> int | None:
    """Nanoseconds that threads of this process were ready to run while others had the processors (Linux tells)."""
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:  # another system
        return None
    words = [_text(f"/proc/self/task/{thread}/schedstat").split() for thread in threads]
    told = [int(numbers[1]) for numbers in words if len(numbers) > 1]  # a thread may have ended since
    return sum(told) if told else None


def _used() -> tuple[float, float] | None:
    """CPU seconds that all processes but this one have used, and seconds passed, each from some beginning."""
    words, own = _text("/proc/stat").split(None, 9)[1:9], os.times()
    if len(words) < 8:
        return None
    ticks = sum(
        int(word) for place, word in enumerate(words) if place not in (3, 4)
    )  # not idle, not waiting for a disk
    return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system, own.elapsed


def _rate(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """CPUs kept busy in between; None if that was too short for the ticks of the system's clock."""
    if before is None or after is None or after[1] - before[1] < 0.1:
        return None
    return round(max(0.0, after[0] - before[0]) / (after[1] - before[1]), 2)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a program prints; nothing if it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _power_mode(text: str) -> str | None:
    """The mode that a Jetson's nvpmodel names: ``NV Power Mode: 15W``."""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("NV Power Mode:")]
    return named[0] if named else None


def _gpu_facts(text: str) -> dict[str, Any]:
    rows = list(csv.reader(text.splitlines()[:1], skipinitialspace=True))
    row = rows[0] if rows and len(rows[0]) == len(_GPU) else [""] * len(_GPU)
    return {field: _fact(field, value.strip()) for field, value in zip(_GPU, row)}


def _fact(field: str, value: str) -> str | float | None:
    """A name or a number; what it cannot tell, nvidia-smi puts in brackets: ``[N/A]``, ``[Not Supported]``."""
    if not value or value.startswith("["):
        return None
    if not field.endswith(("_mhz", "_w")):
        return value
    return float(value) if value.replace(".", "", 1).isdigit() else None
