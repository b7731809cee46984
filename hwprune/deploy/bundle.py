"""A bundle on disk: reading it, verifying it where it is, completing it on the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune import device_bundle
from hwprune.deploy.packing import unpack
from hwprune.errors import BundleError
from hwprune.files import write_atomic
from hwprune.targets import Target

PACKED_FILE = "model.packed"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is as it was written.

    Attributes:
        path: the folder.
        manifest: the content of ``manifest.json``.
    """

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def load(cls, path: Path | str, *, public_key: Path | None = None) -> Bundle:
        """Read a bundle's manifest; nothing else is opened.

        Args:
            path: the folder.
            public_key: a file with the Ed25519 key (PEM) that must have signed it.

        Raises:
            BundleError: there is no manifest, it is of another version, it was changed, or is not signed by that key.
        """
        try:
            manifest = device_bundle.read_manifest(path, public_key)
        except (device_bundle.Malformed, device_bundle.Refused, ImportError) as error:
            inside = Path(path) / "bundle"
            hint = (
                f"did you mean {inside}?" if inside.is_dir() else "give the folder that hwprune export wrote, unchanged"
            )
            raise BundleError(f"{path}: {error}", hint=hint) from error
        return cls(Path(path), manifest)

    @property
    def target(self) -> Target:
        """What the engine was made for."""
        return Target.from_dict(self.manifest["target"], source=str(self.path / "manifest.json"))

    @property
    def engine(self) -> bytes:
        """The engine, read once, checked and unpacked, so that what is opened is what was checked.

        Raises:
            BundleError: the file is missing or was changed, or cannot be unpacked.
        """
        name: str = self.manifest["engine"]["file"]
        try:
            content = device_bundle.read_file(self.path, self.manifest, name)
        except device_bundle.Refused as error:
            raise BundleError(f"{self.path}: {error}", hint="write the bundle again") from error
        return unpack(content) if name == PACKED_FILE else content

    @property
    def signed(self) -> bool:
        """Whether a signature is there; whose, only a public key tells."""
        return (self.path / device_bundle.SIGNATURE).exists()

    def complete(self, measured: Mapping[str, Any], device: Mapping[str, Any]) -> Bundle:
        """Write a measurement into a bundle whose latency was only predicted.

        Args:
            measured: ``Latency.to_dict()`` of this engine.
            device: fingerprint of the device it was measured on.

        Raises:
            BundleError: it holds a measurement already, or is signed.
            OSError: the folder cannot be written.
        """
        if self.manifest["latency"]["measured_ms"] is not None:
            raise BundleError(f"{self.path} holds a measurement already", hint="hwprune verify compares with it")
        if self.signed:
            raise BundleError(f"{self.path} is signed: its manifest cannot be changed", hint="measure before signing")
        latency = {**self.manifest["latency"], "measured_ms": dict(measured)}
        write_atomic(self.path / "manifest.json", sealed({**self.manifest, "latency": latency, "device": dict(device)}))
        return Bundle.load(self.path)


def verify(
    path: Path | str, *, latency: bool = True, rounds: int = 20, public_key: Path | None = None
) -> dict[str, Any]:
    """Check a bundle's hashes, then its golden outputs, then (on the device it was measured on) its latency.

    The engine is opened only after every hash was found right. A device too busy to measure fails the
    check of the latency; it is never passed on a guess.

    Args:
        path: the bundle.
        latency: measure, too.
        rounds: rounds of measurement.
        public_key: a file with the Ed25519 key (PEM) that must have signed it.

    Returns:
        ``ok``, ``checks`` (each ``{"name", "ok", "detail"}``; after one that fails the later ones are not
        made) and ``latency_ms`` (None if it was not measured).

    Raises:
        BundleError: there is no bundle, its manifest was changed or is malformed, it is not signed as it must be, or
            its runtime is not installed.
    """
    Bundle.load(path, public_key=public_key)
    try:
        return device_bundle.verify_bundle(path, latency=latency, rounds=rounds, public_key=public_key)
    except (ValueError, ImportError) as error:
        raise BundleError(f"{path}: {error}", hint="write the bundle again, or install its runtime") from error


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of ``manifest.json``, which begin with the digest of the rest.

    That guards against a slip of the hand, not against a forger: for him there are signatures.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    rest = json.dumps(content, indent=1, allow_nan=False)[1:].encode() + b"\n"
    return (device_bundle.HEAD % hashlib.sha256(rest).hexdigest()).encode() + rest
