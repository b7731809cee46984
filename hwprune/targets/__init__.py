"""What a device is: a target (device, runtime, precision, batch, threads) and the runtimes that can serve it."""

from __future__ import annotations

from hwprune.targets._base import Runtime as Runtime
from hwprune.targets.device_files import device_files as device_files
from hwprune.targets.known import known_targets as known_targets
from hwprune.targets.known import load_target as load_target
from hwprune.targets.known import runtime_for as runtime_for
from hwprune.targets.target import Target as Target

__all__ = ["Runtime", "Target", "device_files", "known_targets", "load_target", "runtime_for"]
