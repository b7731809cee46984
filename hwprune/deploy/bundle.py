"""A bundle on disk: reading it, verifying it where it is, completing it on the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune import device_runner
from hwprune.deploy.packing import unpack
from hwprune.errors import BundleError
from hwprune.files import write_json
from hwprune.targets import Target

SCHEMA_VERSION = 1
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
    def load(cls, path: Path | str) -> Bundle:
        """Read a bundle's manifest; nothing else is opened.

        Raises:
            BundleError: there is no manifest, it is of another version, or it was changed.
        """
        file = Path(path) / "manifest.json"
        try:
            manifest = json.loads(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            inside = Path(path) / "bundle"
            hint = f"did you mean {inside}?" if inside.is_dir() else "give the folder that hwprune export wrote"
            raise BundleError(f"no bundle in {path}: manifest.json is missing", hint=hint) from error
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{file} cannot be read: {error}", hint="write the bundle again") from error
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{file} has schema_version {version}; this hwprune reads {SCHEMA_VERSION}",
                hint="use the hwprune that wrote the bundle",
            )
        if manifest.get("manifest_sha256") != _digest(manifest):
            raise BundleError(f"{file} was changed after it was written", hint="write the bundle again")
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
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path / name} cannot be read: {error}", hint="write the bundle again") from error
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise BundleError(f"{self.path / name} was changed after it was written", hint="write the bundle again")
        return unpack(content) if name == PACKED_FILE else content

    def complete(self, measured: Mapping[str, Any], device: Mapping[str, Any]) -> Bundle:
        """Write a measurement into a bundle whose latency was only predicted.

        Args:
            measured: ``Latency.to_dict()`` of this engine.
            device: fingerprint of the device it was measured on.

        Raises:
            BundleError: it holds a measurement already.
            OSError: the folder cannot be written.
        """
        if self.manifest["latency"]["measured_ms"] is not None:
            raise BundleError(f"{self.path} holds a measurement already", hint="hwprune verify compares with it")
        latency = {**self.manifest["latency"], "measured_ms": dict(measured)}
        manifest = sealed({**self.manifest, "latency": latency, "device": dict(device)})
        write_json(self.path / "manifest.json", manifest)
        return Bundle(self.path, manifest)


def verify(path: Path | str, *, latency: bool = True, rounds: int = 20) -> dict[str, Any]:
    """Check a bundle's hashes, then its golden outputs, then (on the device it was measured on) its latency.

    The engine is opened only after every hash was found right. A device too busy to measure fails the
    check of the latency; it is never passed on a guess.

    Args:
        path: the bundle.
        latency: measure, too.
        rounds: rounds of measurement.

    Returns:
        ``ok``, ``checks`` (each ``{"name", "ok", "detail"}``; after one that fails the later ones are not
        made) and ``latency_ms`` (None if it was not measured).

    Raises:
        BundleError: there is no bundle, its manifest was changed or is malformed, or its runtime is not installed.
    """
    Bundle.load(path)
    try:
        return device_runner.verify_bundle(path, latency=latency, rounds=rounds)
    except (device_runner.BadInput, ImportError) as error:
        raise BundleError(f"{path}: {error}", hint="write the bundle again, or install its runtime") from error


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own digest; guards against a slip of the hand, not against a forger."""
    return {**manifest, "manifest_sha256": _digest(manifest)}


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
