"""What a network takes in bytes, at any widths: weights as an engine stores them, activations held at once."""

from __future__ import annotations

from hwprune.footprint.liveness import Step as Step
from hwprune.footprint.liveness import steps as steps
from hwprune.footprint.table import Footprint as Footprint
from hwprune.footprint.table import LayerFootprint as LayerFootprint
from hwprune.footprint.table import footprint as footprint
from hwprune.footprint.weights import weight_bytes as weight_bytes

__all__ = ["Footprint", "LayerFootprint", "Step", "footprint", "steps", "weight_bytes"]
