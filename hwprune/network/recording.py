"""What one forward pass did: every ATen operator, in order, with the module it ran in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from hwprune.errors import ModelError
from hwprune.network.branches import candidates, training
from hwprune.network.deadline import Deadline
from hwprune.network.forward import (
    Example,
    call,
    cloned,
    half_types,
    shapes_of,
    tensors_in,
    tensors_of,
    undisturbed,
)
from hwprune.network.recorded import Call, Recording, Ref, Return, Source, Value, idle, unread
from hwprune.network.surgery import sizes_in


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, deadline: Deadline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.stack: list[tuple[str, bool]] = [("", False)]
        self.entered = {""}  # paths of the modules whose forward ran
        self.called: str | None = None  # the function of torch that is running, as far as it is known
        self._deadline = deadline
        self._index: Any = WeakIdKeyDictionary()
        self._memory: dict[int, str] = {}
        self._named: dict[str, torch.Tensor] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.add(tensor, "parameter" if isinstance(tensor, nn.Parameter) else "buffer", name)
            self._named[name] = tensor
            if _is_dense(tensor):
                self._memory[tensor.untyped_storage().data_ptr()] = name

    def add(self, tensor: torch.Tensor, source: Source, name: str = "") -> Ref:
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.recording.values.append(Value(tuple(tensor.shape), dtype, source, name))
        self._index[tensor] = len(self.recording.values) - 1
        return Ref(len(self.recording.values) - 1)

    def ref(self, tensor: torch.Tensor) -> Ref:
        index = self._index.get(tensor)
        if index is not None:
            return Ref(index)
        name = self._memory.get(tensor.untyped_storage().data_ptr()) if _is_dense(tensor) else None
        if name is None:
            return self.add(tensor, "constant")
        owner = self._named[name]
        if (tensor.shape, tensor.stride()) == (owner.shape, owner.stride()):
            return Ref(self._index[owner])
        return self.add(tensor, "alias", name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._deadline.check(self.stack[-1][0] or "the model's forward")
        if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), _COMPOSITE
        ):
            with self:  # torch takes it apart itself in any other mode
                return func._op_dk(_COMPOSITE, *args, **(kwargs or {}))
        return self.record(func, args, kwargs or {})

    def leave(self, name: str, tensor: torch.Tensor) -> None:
        """Note that the values of a tensor are read by something else than torch."""
        self.recording.calls.append(
            Call(
                op=name,
                target=f"Tensor.{name}",
                pointwise=False,
                in_place=False,
                mutates=True,
                arguments={"self": self.ref(tensor)},
                args=(self.ref(tensor),),
                kwargs={},
                outputs=(),
                module=self.stack[-1][0],
                builtin=False,
            )
        )

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operator and note it."""
        module, builtin = self.stack[-1]
        to_ref: Callable[[Any], Any] = lambda leaf: self.ref(leaf) if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
        given, named = _pytree.tree_map(to_ref, (args, kwargs))
        with _disable_current_modes():
            result = func(*args, **kwargs)
        outputs = [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        schema = func._schema
        namespace, _, name = schema.name.rpartition("::")
        in_place = name.endswith("_") and not name.endswith("__") and len(outputs) == 1 and outputs[0] is args[0]
        self.recording.calls.append(
            Call(
                op=(name.rstrip("_") if in_place else name) if namespace == "aten" else f"{namespace}.{name}",
                target=str(func),
                pointwise=torch.Tag.pointwise in func.tags,
                in_place=in_place,
                mutates=schema.is_mutable and not in_place,
                arguments=_by_name(schema, given, named),
                args=given,
                kwargs=named,
                outputs=tuple(self.add(tensor, "computed") for tensor in outputs),
                module=module,
                builtin=builtin,
                told=self.called is None or self.called in _TELLING,
            )
        )
        return result


_COMPOSITE: Any = torch._C.DispatchKey.CompositeImplicitAutograd


class _Whole(TorchFunctionMode):
    """Records what the recorder would not see: what torch takes apart before, and values that leave torch."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.rms_norm, torch.rms_norm):
            return self._recorder.record(torch.ops.aten.rms_norm.default, args, kwargs or {})
        if func in _RECURRENT and isinstance(args[3], bool):  # not of packed sequences
            return self._recorder.record(_RECURRENT[func], args, kwargs or {})
        if func in _LEAVING:
            self._recorder.leave(func.__name__.strip("_"), args[0])
        self._recorder.called = getattr(func, "__name__", None)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._recorder.called = None


_RECURRENT = {
    torch._VF.lstm: torch.ops.aten.lstm.input,
    torch._VF.gru: torch.ops.aten.gru.input,
    torch._VF.rnn_tanh: torch.ops.aten.rnn_tanh.input,
    torch._VF.rnn_relu: torch.ops.aten.rnn_relu.input,
}
_TELLING = frozenset({"view", "reshape", "expand", "unflatten", "view_as", "reshape_as", "expand_as"})
_LEAVING = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)


def _by_name(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            arguments[argument.name] = args[position]
        elif argument.name in kwargs:
            arguments[argument.name] = kwargs[argument.name]
        else:
            arguments[argument.name] = argument.default_value
    return arguments


def record(model: nn.Module, example: Example, deadline: Deadline, *, trained: Set[str] = frozenset()) -> Recording:
    """Run the model once, in evaluation mode, and write down every operator.

    Args:
        model: not modified, but for what its own forward does to it.
        example: the arguments of ``forward``, batch first: a tensor, a tuple, or a dictionary by name.
        deadline: when to give up.
        trained: paths of modules that run what they run in training (:func:`~hwprune.network.branches.training`).

    Returns:
        The recording.

    Raises:
        ModelError: forward fails (the message names the module), or time is up.
    """
    arguments, held = cloned(example), sizes_in(model)
    recorder = _Recorder(model, deadline)
    for argument in tensors_in(arguments):
        recorder.add(argument, "input")
    with undisturbed(model), ExitStack() as hooks:
        for path, module in model.named_modules():
            builtin = type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is None
            own = dict(module.named_parameters())
            if not builtin and [len(shape) for shape in {one.shape for one in own.values()}] == [1]:
                recorder.recording.norms[path] = f"{path}.{next(iter(own))}".lstrip(".")
            enter = module.register_forward_pre_hook(_entering(recorder, path, builtin), prepend=True, with_kwargs=True)
            leave = module.register_forward_hook(_leaving(recorder, path), with_kwargs=True)
            hooks.callback(enter.remove)
            hooks.callback(leave.remove)
        if trained:
            hooks.enter_context(training(model, trained))
        try:
            with recorder, _Whole(recorder):
                output = call(model, arguments)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model's forward failed on an input of shape {shapes_of(arguments)}, in "
                f"{recorder.stack[-1][0] or 'the model itself'}: {type(error).__name__}: {error}",
                hint=_hint(model),
            ) from error
        recorder.recording.sizes = _by_caller(held, recorder.entered)  # not those that forward made
        recorder.recording.outputs = tuple(recorder.ref(tensor) for tensor in tensors_of(output))
    recorder.recording.idle = idle(recorder.recording)
    return recorder.recording


def record_all(model: nn.Module, example: Example, deadline: Deadline) -> Recording:
    """:func:`record`, and what modules run in training only; where parameters are unread without it, as ``branches``.

    Raises:
        ModelError: forward fails in evaluation mode, or time is up.
    """
    recording = record(model, example, deadline)
    for paths in candidates(model):
        try:
            other = record(model, example, deadline, trained=paths)
        except ModelError:  # in training, it may want targets as well
            continue
        runs = [[(one.target, one.module) for one in made.calls] for made in (recording, other)]
        recording.trained = paths if runs[0] != runs[1] else frozenset()
        if unread(recording):
            recording.branches = other
        break
    return recording


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.numel() > 0


def _by_caller(sizes: Mapping[str, dict[str, int]], entered: Set[str]) -> dict[str, dict[str, int]]:
    """Attributes by the module whose forward ran; those of a child of which only other methods did, by its parent."""
    found: dict[str, dict[str, int]] = {}
    for path, held in sizes.items():
        caller = path
        while caller not in entered:
            caller = caller.rpartition(".")[0]
        prefix = f"{path.removeprefix(caller).lstrip('.')}." if caller != path else ""
        found.setdefault(caller, {}).update({f"{prefix}{name}": size for name, size in held.items()})
    return found


def _hint(model: nn.Module) -> str:
    if halves := half_types(model):
        named = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves))
        return f"check shapes and types of the inputs; what cannot run in {named} here can in float32: model.float()"
    return "check shapes (batch first) and types of the inputs, and that the model runs in evaluation mode"


def _entering(recorder: _Recorder, path: str, builtin: bool) -> Any:
    def hook(module: nn.Module, inputs: Any, named: Any) -> None:
        recorder.stack.append((path, builtin))
        recorder.entered.add(path)
        if not builtin:
            leaves = _pytree.tree_leaves((inputs, named))
            given = [recorder.ref(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
            recorder.recording.given.setdefault(path, []).extend(given)

    return hook


def _leaving(recorder: _Recorder, path: str) -> Any:
    def hook(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        recorder.stack.pop()
        several = output if type(output) in (tuple, list) else (output,)
        outputs = len(several) if several and isinstance(several[0], torch.Tensor) else 0
        if type(output) is tuple and outputs == 1:
            outputs = 0  # a tuple of one has no number
        first = recorder.ref(several[0]) if outputs else Ref(-1)
        recorder.recording.returned.append(Return(path, outputs, first))
        leaves = _pytree.tree_leaves((inputs, named, output))
        shapes = [leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            recorder.recording.norms.pop(path, None)

    return hook
