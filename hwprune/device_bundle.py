"""A bundle as it is found on a device, and the tool that opens it there: ``run.py``.

Before the manifest, and then every file, is found to be as it was written (and signed, where a key is given), nothing
of a bundle is opened, parsed or imported but this file, which needs Python 3.8 alone; then our other files are
executed from the very bytes that were checked, and numpy and the runtime are imported. ::

    python run.py info   [BUNDLE]                        what this is
    python run.py infer  FILE... [--output OUT.npz]      images or arrays through the engine (device_verbs.infer)
    python run.py bench  [BUNDLE] [--rounds N]           latency, and how much it is to be trusted
    python run.py verify [BUNDLE] [--no-latency]         files, golden outputs, latency; also without a verb

All take ``--json`` and ``--public-key KEY.pub``. Exit status 0: done, every check passed; 1: a check failed (something
was changed or added, the signature, outputs, latency), or the device is too busy to measure; 2: bad input.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    _folder = sys.path.pop(0)  # of this file: whatever lies there would be imported in place of Python's own modules
    sys.path[:] = [place for place in sys.path if place not in ("", _folder)]

import argparse
import hashlib
import importlib
import json
import os
import re
import stat
import types
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 2
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
HEAD = '{"manifest_sha256": "%s",'  # a manifest begins with the digest of all that follows
MAX_BYTES, MAX_DEPTH = 1 << 22, 32  # of a manifest
VERBS = ("info", "infer", "bench", "verify")
_HEAD_BYTES, _SIGNATURE_BYTES, _MOST = len(HEAD % ("0" * 64)), 64, 1 << 63
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(?<!\.)\Z")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)  # no files on Windows, whatever follows
_NONE = type(None)
_FORM = {  # of a manifest: what is used of it
    "schema_version": int,
    "target": dict,
    "files": dict,
    "engine": {"file": str, "runtime": str, "threads": int, "precision": str},
    "inputs": [{"name": str, "shape": [(int, _NONE)], "dtype": str}],
    "outputs": [{"name": str, "shape": [(int, _NONE)], "dtype": str}],
    "golden": {"file": str, "inputs": dict, "outputs": dict, "relative_l2": (int, float)},
    "latency": {"predicted_ms": (int, float, _NONE), "measured_ms": (dict, _NONE), "tolerance": (int, float)},
    "preprocessing": dict,
    "device": (dict, _NONE),
}


class Malformed(ValueError):
    """This is no bundle, or not one of this version."""


class Refused(ValueError):
    """Something is not as it was written; ``check`` says what was compared: signature, manifest or hashes."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(detail)
        self.check = check


class Checked(NamedTuple):
    """A bundle all of whose files are as they were written.

    Attributes:
        folder: where it is.
        manifest: the content of ``manifest.json``.
        contents: the bytes of every other file by name, as they were hashed.
        checks: what was compared: name, whether it holds, detail.
    """

    folder: Path
    manifest: dict[str, Any]
    contents: dict[str, bytes]
    checks: list[tuple[str, bool, str]]


def read_manifest(folder: str | Path, public_key: str | Path | None = None) -> dict[str, Any]:
    """The manifest, parsed only if its bytes are as they were written, and signed, where a key is given.

    Args:
        folder: the bundle.
        public_key: a file with the Ed25519 key (PEM) that must have signed it.

    Raises:
        Refused: it was changed, or its signature is missing or wrong.
        Malformed: there is none, or it is none.
        ImportError: a key was given, and the package cryptography is not installed.
    """
    raw = _read(Path(folder) / MANIFEST, MAX_BYTES, "manifest")
    if public_key is not None:
        _check_signature(Path(folder) / SIGNATURE, raw, Path(public_key))
    if raw[:_HEAD_BYTES] != (HEAD % hashlib.sha256(raw[_HEAD_BYTES:]).hexdigest()).encode():
        raise Refused("manifest", f"{MANIFEST} was changed after it was written, or is of an earlier hwprune")
    manifest = _parsed(raw)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise Malformed(f"{MANIFEST} has schema_version {version!r}, {SCHEMA_VERSION} is read here")
    _check_form(manifest, _FORM, "the manifest")
    _check_files(manifest)
    document: dict[str, Any] = manifest
    return document


def read_file(folder: str | Path, manifest: dict[str, Any], name: str) -> bytes:
    """The bytes of one of a bundle's files, read once.

    Raises:
        Refused: it is missing, is a link, or is not as the manifest says.
    """
    record = manifest["files"][name]
    content = _read(Path(folder) / name, record["bytes"], "hashes")
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise Refused("hashes", f"{name} was changed after it was written")
    return content


def read_bundle(folder: str | Path, public_key: str | Path | None = None) -> Checked:
    """Everything in a bundle, if all of it is as it was written, and nothing is there beside it.

    Raises:
        Refused: something was changed, is missing, is a link, or is not listed; or the signature is not as it must be.
        Malformed: there is no bundle.
        ImportError: as ``read_manifest``.
    """
    manifest = read_manifest(folder, public_key)
    contents, wrong = {}, []
    for name in manifest["files"]:
        try:
            contents[name] = read_file(folder, manifest, name)
        except Refused as refused:
            wrong.append(str(refused))
    unlisted = sorted(set(os.listdir(folder)) - set(manifest["files"]) - {MANIFEST, SIGNATURE})
    wrong += [f"{ascii(name)[1:-1]} is not listed in the manifest" for name in unlisted]
    if wrong:
        raise Refused("hashes", "; ".join([*wrong[:10], *(["…"] if wrong[10:] else [])]))
    checks = [("signature", True, f"by {public_key}")] if public_key is not None else []
    return Checked(Path(folder), manifest, contents, [*checks, ("hashes", True, f"{len(contents)} files unchanged")])


def verify_bundle(
    folder: str | Path, *, latency: bool = True, rounds: int = 20, public_key: str | Path | None = None
) -> dict[str, Any]:
    """Check a bundle's files, then its golden outputs, then its latency (compared on the same device only).

    A check that fails ends it: nothing is opened before its hash was found right.

    Returns:
        ``ok``, ``checks`` (each ``{"name", "ok", "detail"}``), ``latency_ms`` (``device_runner.measure``'s, or None).

    Raises:
        ValueError: the bundle is malformed, or made for a runtime that there is no engine file for.
        ImportError: the runtime is not installed, or the package that a signature needs.
    """
    try:
        bundle = read_bundle(folder, public_key)
    except Refused as refused:
        return _failed(refused)
    report: dict[str, Any] = _verbs(bundle).verify(bundle, latency=latency, rounds=rounds)
    return report


def _failed(refused: Refused) -> dict[str, Any]:
    return {
        "ok": False,
        "checks": [{"name": refused.check, "ok": False, "detail": str(refused)}],
        "latency_ms": None,
    }


def _read(path: Path, most: int, check: str) -> bytes:
    """The bytes of a plain file that has no second name."""
    flags: int = os.O_RDONLY
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):  # not all of them everywhere
        flags |= getattr(os, name, 0)
    try:
        seen = os.lstat(path)
        if not stat.S_ISREG(seen.st_mode) or getattr(seen, "st_reparse_tag", None):
            raise Refused(check, f"{path.name} is no plain file, but a link, a folder or a device")
        with os.fdopen(os.open(path, flags), "rb") as file:
            opened = os.fstat(file.fileno())
            if not os.path.samestat(seen, opened):
                raise Refused(check, f"{path.name} was exchanged while it was opened")
            if opened.st_nlink > 1:
                raise Refused(check, f"{path.name} has {opened.st_nlink} names (hard links); copy the file itself")
            size, exact = opened.st_size, check == "hashes"
            content = file.read(size + 1) if size <= most else b""
    except (FileNotFoundError, NotADirectoryError):
        if path.name == MANIFEST:
            raise Malformed(f"no bundle in {path.parent}: {MANIFEST} is missing") from None
        raise Refused(check, f"{path.name} is missing") from None
    except OSError as error:
        raise Refused(check, f"{path.name} cannot be read: {error.strerror or error}") from None
    if len(content) != size or (exact and size != most):
        allowed = f"{'exactly' if exact else 'at most'} {most}"
        raise Refused(check, f"{path.name} was changed after it was written: {size} bytes, {allowed} are right")
    return content


def _check_signature(path: Path, message: bytes, public_key: Path) -> None:
    """Ed25519 (RFC 8032) over the bytes of the manifest."""
    try:
        keys = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
        load = importlib.import_module("cryptography.hazmat.primitives.serialization").load_pem_public_key
        invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    except ImportError as error:
        raise ImportError("a signature is checked with the package cryptography; pip install cryptography") from error
    try:
        key = load(public_key.read_bytes())
    except (OSError, ValueError) as error:
        raise Malformed(f"{public_key} is no public key: {error}") from error
    if not isinstance(key, keys.Ed25519PublicKey):
        raise Malformed(f"{public_key} is a key of another kind; Ed25519 is needed, as PEM")
    if not os.path.lexists(path):
        raise Refused("signature", f"the bundle is not signed: {SIGNATURE} is missing")
    try:
        key.verify(_read(path, _SIGNATURE_BYTES, "signature"), message)
    except invalid:
        raise Refused("signature", f"{SIGNATURE} is not that of this manifest by {public_key}") from None


def _parsed(raw: bytes) -> Any:
    """JSON with every key once, numbers that are finite and of 64 bits, and few levels."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            raise Malformed(f"{MANIFEST} has a key twice in one object: {sorted(key for key, _ in pairs)}")
        return document

    def number(text: str) -> Any:
        value = float(text)
        if not abs(value) < _MOST:
            raise Malformed(f"{MANIFEST} holds a number that is infinite, none, or too large: {text[:30]}")
        return value if set(text) & set(".eE") else int(text)

    hooks: dict[str, Any] = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), number)
    try:
        manifest = json.loads(raw.decode(), object_pairs_hook=unique, **hooks)
        level = [manifest]
        for _ in range(MAX_DEPTH):
            nested = [one for one in level if isinstance(one, (dict, list))]
            level = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
        if level:
            raise RecursionError
    except RecursionError:
        raise Malformed(f"{MANIFEST} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"{MANIFEST} is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise Malformed(f"{MANIFEST} is not JSON: {error}") from None
    return manifest


def _check_form(value: Any, form: Any, where: str) -> None:
    if isinstance(form, (type, tuple)):
        if isinstance(value, bool) or not isinstance(value, form):
            kinds = form if isinstance(form, tuple) else (form,)
            allowed = " or ".join("None" if kind is _NONE else kind.__name__ for kind in kinds)
            raise Malformed(f"{where} is {type(value).__name__}, it must be {allowed}")
    elif isinstance(form, list):
        _check_form(value, list, where)
        for index, one in enumerate(value):
            _check_form(one, form[0], f"{where}[{index}]")
    else:
        _check_form(value, dict, where)
        for key in form:
            if key not in value:
                raise Malformed(f"{where} has no entry {key!r}")
            _check_form(value[key], form[key], f"{key!r} in {where}")


def _check_files(manifest: dict[str, Any]) -> None:
    """Names are plain and differ on every file system, and what is used is among them."""
    files, seen = manifest["files"], {MANIFEST, SIGNATURE}
    for name, record in files.items():
        if not _NAME.match(name) or _DEVICES.match(name):
            raise Malformed(f"the manifest lists {name!r}; only plain file names inside the bundle are allowed")
        if name.lower() in seen:
            raise Malformed(f"the manifest lists {name!r} twice, or as a name that differs in its case only")
        seen.add(name.lower())
        _check_form(record, {"sha256": str, "bytes": int}, f"{name!r} in the manifest's files")
    for part in ("engine", "golden"):
        if manifest[part]["file"] not in files:
            raise Malformed(f"the {part}'s file {manifest[part]['file']!r} is not among the manifest's files")


def _verbs(code: Checked) -> Any:
    """Our module of the verbs: the package's, or on a device that of a bundle, executed from the bytes checked."""
    if __name__.startswith("hwprune."):
        return importlib.import_module("hwprune.device_verbs")
    if "device_runner.py" not in code.contents:
        raise Malformed(f"device_runner.py is missing in {code.folder}")
    runner: Any = types.ModuleType("device_runner")
    sys.modules["device_runner"] = runner
    exec(compile(code.contents["device_runner.py"], "device_runner.py", "exec"), runner.__dict__)
    runner.SOURCES = code.contents
    return runner.sibling("device_verbs")


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs, here = parser.add_subparsers(dest="verb", metavar="VERB"), Path(__file__).resolve().parent
    found = {verb: verbs.add_parser(verb) for verb in VERBS}
    for verb, one in found.items():
        if verb != "infer":
            one.add_argument("bundle", nargs="?", default=here, help="default: beside run.py")
        one.add_argument("--public-key", type=Path, metavar="KEY.pub", help="refuse what this key did not sign")
        one.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    found["infer"].add_argument("sources", nargs="+", metavar="FILE", help="an image, .npy or .npz")
    found["infer"].add_argument("--output", type=Path, metavar="OUT.npz", help="where to write all outputs")
    found["infer"].add_argument("--bundle", default=here, help="default: beside run.py")
    found["bench"].add_argument("--rounds", type=int, default=20, help="rounds of measurement, 5 at least (20)")
    found["verify"].add_argument("--no-latency", action="store_true", help="check files and golden outputs only")
    asked = bool(argv) and argv[0] in (*VERBS, "-h", "--help")
    return parser.parse_args(argv if asked else ["verify", *argv])


def _answer(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What is to be printed, as a document and as lines."""
    try:
        bundle = read_bundle(options.bundle, options.public_key)
        here, code = Path(__file__).resolve().parent, bundle
        if options.public_key is None and not __name__.startswith("hwprune.") and bundle.folder.resolve() != here:
            code = read_bundle(here)  # of what nobody signed, the code is not run where there is other code
    except Refused as refused:
        report = _failed(refused)
        return report, [f"FAILED {refused.check}: {refused}"]
    verbs = _verbs(code)
    if options.verb == "verify":
        report = verbs.verify(bundle, latency=not options.no_latency)
    elif options.verb == "infer":
        report = verbs.infer(bundle, options.sources, output=options.output)
    elif options.verb == "bench":
        report = verbs.bench(bundle, rounds=options.rounds)
    else:
        report = verbs.info(bundle)
    return report, getattr(verbs, f"{options.verb}_lines")(report)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    options = _options(sys.argv[1:] if argv is None else argv)
    try:
        report, lines = _answer(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {_plain(str(error))}\nhint: {_hint(error)}", file=sys.stderr)
        return 2
    print(json.dumps(report, allow_nan=False) if options.json else "\n".join(_plain(line) for line in lines))
    return 0 if report["ok"] else 1


def _hint(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "a device needs numpy and the runtime that run.py info names; install what is missing"
    if isinstance(error, Malformed):
        return "give a bundle folder as hwprune export wrote it"
    return "run.py --help says what each verb takes, run.py info what this bundle is"


def _plain(text: str) -> str:
    """Text that a terminal can show, and only shows."""
    shown = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
