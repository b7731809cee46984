"""What every runtime can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hwprune import device_runner
from hwprune.engines import Engine, onnx_graph
from hwprune.errors import InputError, ModelError
from hwprune.targets.target import Target


class Runtime:
    """Something that executes exported engines on a device; the engines themselves are in ``hwprune.engines``.

    Attributes:
        name: as in ``Target.runtime``.
        model_format: what it opens: ``onnx``; ``torch``, an archive of ``torch.export``; or ``ncnn``, a zip of
            ``model.param`` and ``model.bin``.
        kernels: whether it tells what the kernels of a network take.
        precisions: those it offers.
        signed_activations: whether 8-bit activations are signed, around zero; else unsigned with a zero point.
        builder_halves: whether versions of it make float16 kernels of a float32 model; the others refuse it themselves.
    """

    name: ClassVar[str]
    model_format: ClassVar[str] = "onnx"
    kernels: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    signed_activations: ClassVar[bool] = False
    builder_halves: ClassVar[bool] = False

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, with what to install, or None if it can."""
        reason: str | None = device_runner.engine_module(self.name).available(device_runner.ENGINES[self.name][1])
        return reason

    def open(self, model: bytes | Path, target: Target, *, instrumented: bool = False) -> Engine:
        """Open an engine to run under the target's conditions.

        Args:
            model: in the runtime's format.
            target: gives threads and precision.
            instrumented: time its kernels, too; that makes it slower.

        Raises:
            InputError: the runtime is not installed here, lacks the target's precision, or cannot time kernels.
            ModelError: the model cannot be opened.
        """
        self.check(target)
        source = str(model) if isinstance(model, Path) else model
        try:
            if self.model_format == "onnx":
                content = model.read_bytes() if isinstance(model, Path) else model
                _check_precision(content, target)
                if target.precision == "fp16" and not self.builder_halves:
                    _check_half(content, target)
            engine: Engine = device_runner.open_engine(
                source,
                runtime=self.name,
                threads=target.threads,
                precision=target.precision,
                instrumented=instrumented,
            )
        except (device_runner.BadInput, OSError) as error:
            raise ModelError(
                f"{self.name} cannot open the model: {error}",
                hint=f"give a model ({self.model_format}) that it can run",
            ) from error
        except device_runner.NotInstrumented as error:
            raise InputError(str(error), hint="measure the whole network") from error
        return engine

    def check(self, target: Target) -> None:
        """Refuse a target that cannot be served on this machine.

        Raises:
            InputError: the runtime is not installed here, or does not offer the target's precision.
        """
        if target.precision not in self.precisions:
            allowed = " or ".join(self.precisions)
            raise InputError(
                f"{self.name} has no precision {target.precision!r} yet (target {target.name!r})",
                hint=f"it exists in {allowed}; set precision to {allowed}",
            )
        reason = self.unavailable()
        if reason:
            raise InputError(f"target {target.name!r} cannot run here: {reason}", hint="hwprune targets lists what can")

    def fuses(self, op: str, into: str, *, rank: int = 4, chain: Sequence[str] = ()) -> bool:
        """Whether operator ``op`` runs inside the kernel of the layer that produces its input.

        In doubt the answer is no: an operator counted apart costs a little too much, one taken for fused costs nothing.

        Args:
            op: ATen operator name without namespace and overload (``relu``, ``add``, ``batch_norm``). ``add`` means
                two activations of equal shape, not a constant and not a broadcast.
            into: ``Layer.op`` of that layer (``conv``, ``linear``, …).
            rank: dimensions of that layer's output, batch included (4 for a 2-d convolution).
            chain: operators that run inside that kernel already, in order.
        """
        return False

    def fingerprint(self) -> dict[str, Any]:
        """The device that this runtime would run on; see ``device_runner.fingerprint``."""
        return device_runner.fingerprint(self.name)


def _check_precision(model: bytes, target: Target) -> None:
    """Refuse a model of another precision than the target's: its latency would be the other's."""
    ops = {node.op for node in onnx_graph.Graph(model).nodes}
    found = "int8" if any("Quantize" in op or op.startswith("QLinear") for op in ops) else "fp32"
    if (found == "int8") != (target.precision == "int8") and ops & {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        raise ModelError(
            f"the model is {found}, and target {target.name!r} is for {target.precision}",
            hint="quantise the model (QuantizeLinear, DequantizeLinear) for int8, or change the target's precision",
        )


def _check_half(model: bytes, target: Target) -> None:
    """Refuse a model in which nothing is float16 for a target in fp16, likewise."""
    import onnx

    half, graph = onnx.TensorProto.FLOAT16, onnx.load_from_string(model).graph
    weighty = any(node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for node in graph.node)
    casts = (one.i for node in graph.node if node.op_type == "Cast" for one in node.attribute)
    if weighty and half not in (*casts, *(tensor.data_type for tensor in graph.initializer)):
        raise ModelError(
            f"nothing in the model is float16, and target {target.name!r} is for fp16",
            hint="export the model with --precision fp16, or change the target's precision",
        )
