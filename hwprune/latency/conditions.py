"""How a device was measured: by which clock, and what else it was doing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwprune.errors import MeasurementError

MOST_OTHERS = 0.6  # part of the processors that other processes may keep busy


class Conditions:
    """Collects the clock and the contention of visits to one device.

    Samples that were preempted are left out by the clock. That is not enough: a busy neighbour also takes cache, memory
    and half of a shared core, and makes every sample longer without interrupting one.
    """

    def __init__(self) -> None:
        self._clocks: set[str] = set()
        self._clean: list[float] = []
        self._others: list[float] = []

    def add(self, reply: Mapping[str, Any]) -> None:
        """Take in what one reply says."""
        contention = reply["contention"]
        self._clocks.add(reply["clock"])
        self._clean.append(contention["clean_fraction"])
        if contention.get("other_cpus") is not None:
            self._others.append(contention["other_cpus"])

    def check(self, device: Mapping[str, Any]) -> None:
        """Refuse numbers from a device that was busy with something else most of the time.

        Args:
            device: its fingerprint.

        Raises:
            MeasurementError: other processes kept more than six tenths of its processors busy.
        """
        processors = device.get("logical_cpus")
        if self._others and processors and float(np.median(self._others)) > MOST_OTHERS * processors:
            raise MeasurementError(
                f"other processes kept {np.median(self._others):.1f} of the device's {processors} processors busy",
                hint="stop what else is running on the device, then measure again",
            )

    def protocol(self) -> dict[str, Any]:
        """For the table."""
        return {
            "clock": " and ".join(sorted(self._clocks)),
            "clean_fraction": round(float(np.mean(self._clean)), 4),
            "other_cpus": round(float(np.median(self._others)), 2) if self._others else None,
        }


def too_busy(reply: Mapping[str, Any], refusal: Exception) -> MeasurementError:
    """A refusal to read a reply, as the error that users see."""
    return MeasurementError(
        f"measuring {reply['id']}: {refusal}", hint="stop what else is running on the device, then try again"
    )
