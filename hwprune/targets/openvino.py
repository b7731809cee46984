"""OpenVINO on the CPU."""

from __future__ import annotations

from hwprune.targets._base import Runtime


class OpenVino(Runtime):
    """OpenVINO's CPU plugin."""

    name = "openvino"
    precisions = ("fp32", "int8")
