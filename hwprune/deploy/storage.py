"""How the weights of a delivered engine are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hwprune.errors import InputError
from hwprune.footprint.encoding import Encoding, Precision, check_encoding

Compression = Literal["none", "zlib", "xz"]
_FORM = "ENCODING[-PRECISION][-COMPRESSION], such as gap8-int8-xz: encodings are {}; precisions {}; compressions {}"


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A form of an engine file.

    Attributes:
        encoding: of the weights: ``dense``, ``bitmask`` or ``gap8`` (:mod:`hwprune.footprint.encoding`) in a packed
            file; ``onnx``, a plain ONNX file in which sparse weights are a ``sparse_initializer``.
        precision: that they are rounded to: ``fp32`` (not at all), ``fp16`` or ``int8``. The engine that is unpacked
            computes in float32 with the rounded weights.
        compression: of the packed file: ``none``, ``zlib`` or ``xz``; a plain ONNX file has none.

    Raises:
        InputError: an encoding that there is not, or a plain ONNX file compressed.
    """

    encoding: Encoding
    precision: Precision = "fp32"
    compression: Compression = "none"

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if self.encoding == "onnx" and self.compression != "none":
            raise InputError(
                f"storage {self}: a plain ONNX file is not compressed",
                hint="leave the compression out, or take dense, bitmask or gap8",
            )

    @classmethod
    def parse(cls, text: str) -> Storage:
        """Read ``dense``, ``gap8-int8``, ``gap8-xz``, ``gap8-int8-xz``…; what is left out is fp32 and no compression.

        Raises:
            InputError: names what there is.
        """
        encoding, *rest = text.split("-")
        found: dict[str, str] = {"encoding": encoding}
        for name, allowed in (("precision", get_args(Precision)), ("compression", get_args(Compression))):
            if rest and rest[0] in allowed:
                found[name] = rest.pop(0)
        if rest or encoding not in get_args(Encoding):
            known = (", ".join(get_args(kind)) for kind in (Encoding, Precision, Compression))
            raise InputError(f"storage {text!r} is unknown", hint=_FORM.format(*known))
        return cls(**found)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = [self.encoding, *([self.precision] * (self.precision != "fp32"))]
        return "-".join([*parts, *([self.compression] * (self.compression != "none"))])

    @property
    def packed(self) -> bool:
        """Whether the file must be unpacked before a runtime opens it."""
        return self.encoding != "onnx"
