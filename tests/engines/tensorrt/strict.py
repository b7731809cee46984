"""A package ``tensorrt`` that has the names, arguments, types and constants of an API file, and no others.

The files are what ``tools/tensorrt_api.py`` read from NVIDIA's own bindings. What the calls do is told by a behaviour:
its method ``Builder_create_network`` stands for ``Builder.create_network``, and so on; it may leave out what returns
nothing.
"""

from __future__ import annotations

import enum
import re
import types
from importlib.machinery import ModuleSpec
from typing import Any

Signature = tuple[list[tuple[str, str, bool]], str]  # (argument, type, optional) each; what it returns


def parse(text: str) -> Signature:
    """``(model: buffer, path: str = ...) -> bool``."""
    inside, returns = re.fullmatch(r"\((.*)\) -> (\w+)", text).groups()  # type: ignore[union-attr]
    return re.findall(r"(\w+): (\w+)( = \.\.\.)?", inside), returns


class Package:
    def __init__(self, api: dict[str, Any], behaviour: Any) -> None:
        self.behaviour = behaviour
        self.types: dict[str, type] = {"int": int, "str": str, "bool": bool, "float": float, "any": object}
        self.types |= {name: enum.Enum(name, members) for name, members in api["enums"].items()}
        self.types["Severity"] = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
        for name, description in api["classes"].items():
            self.types[name] = self._make_class(name, **description)
        functions = {name: self._make_call("", name, texts) for name, texts in api["functions"].items()}
        self.module = types.ModuleType("tensorrt")
        self.module.__spec__ = ModuleSpec("tensorrt", None)
        public = {name: self.types[name] for part in ("enums", "classes") for name in api[part]}
        self.module.__dict__.update(functions, **public, __version__=api["tensorrt"])

    def new(self, kind: str, **private: Any) -> Any:
        """An object as the package itself makes it; its private attributes are the behaviour's."""
        made = object.__new__(self.types[kind])
        made.__dict__.update(private, _made=True)
        return made

    def fits(self, value: Any, kind: str) -> bool:
        if kind == "None" or (value is None and kind not in ("int", "str", "bool", "float")):
            return value is None
        if kind == "buffer":
            return isinstance(value, bytes | bytearray | memoryview | self.types["IHostMemory"])
        if kind == "capsule":  # pybind11 takes any of its objects for a pointer
            return hasattr(value, "_made")
        if kind == "int" and isinstance(value, bool):
            return False
        expected = self.types.get(kind)
        made = (
            getattr(value, "__dict__", {}).get("_made") if hasattr(expected, "strict") else True
        )  # __init__ of the base was called
        return expected is not None and isinstance(value, expected) and bool(made)

    def _bind(self, signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        names = [name for name, _, _ in signature[0]]
        if len(args) > len(names) or set(kwargs) - set(names[len(args) :]):
            return None
        given = dict(zip(names, args, strict=False)) | kwargs
        for name, kind, optional in signature[0]:
            if (name not in given and not optional) or (name in given and not self.fits(given[name], kind)):
                return None
        return given

    def _make_call(self, owner: str, name: str, texts: list[str]) -> Any:
        overloads, action = [parse(text) for text in texts], f"{owner}_{name}" if owner else name

        def call(*args: Any, **kwargs: Any) -> Any:
            instance, rest = (args[:1], args[1:]) if owner else ((), args)
            for signature in overloads:
                given = self._bind(signature, rest, kwargs)
                if given is None:
                    continue
                if name == "__init__":
                    args[0].__dict__["_made"] = True
                perform = getattr(self.behaviour, action, None)
                result = perform(*instance, **given) if perform else None
                assert self.fits(result, signature[1]), f"{action} behaves wrongly: {result!r} is no {signature[1]}"
                return result
            raise TypeError(f"{owner}.{name}{rest}{kwargs}: incompatible arguments; there is {texts}")

        return call

    def _make_class(
        self,
        name: str,
        methods: dict[str, list[str]] | None = None,
        properties: dict[str, str] | None = None,
        settable: tuple[str, ...] = (),
        constants: dict[str, str] | None = None,
    ) -> type:
        def refuse(instance: Any, *args: Any) -> None:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")

        members: dict[str, Any] = {"strict": True, "__init__": refuse, "__setattr__": _set_known}
        members |= {one: self._make_call(name, one, texts) for one, texts in (methods or {}).items()}
        members |= {
            one: self._make_property(name, one, kind, one in settable) for one, kind in (properties or {}).items()
        }
        members |= {one: self.types[kind][one] for one, kind in (constants or {}).items()}  # type: ignore[index]
        if name == "IHostMemory":  # the buffer protocol, which Python 3.11 cannot spell
            members["__bytes__"] = lambda memory: memory._content
        return type(name, (), members)

    def _make_property(self, owner: str, name: str, kind: str, settable: bool) -> property:
        def get(instance: Any) -> Any:
            perform = getattr(self.behaviour, f"{owner}_{name}", None)
            result = perform(instance) if perform else instance.__dict__[f"_{name}"]
            assert self.fits(result, kind), f"{owner}_{name} behaves wrongly: {result!r} is no {kind}"
            return result

        def put(instance: Any, value: Any) -> None:
            if not self.fits(value, kind):
                raise TypeError(f"{owner}.{name} = {value!r}: it takes {kind}")
            instance.__dict__[f"_{name}"] = value

        return property(get, put if settable else None)


def _set_known(instance: Any, name: str, value: Any) -> None:
    """Attributes that the class does not have are for Python's own subclasses."""
    known = isinstance(getattr(type(instance), name, None), property) or name.startswith("_")
    if type(instance).__module__ == __name__ and not known:
        raise AttributeError(f"{type(instance).__name__} has no attribute {name!r} to set")
    object.__setattr__(instance, name, value)
