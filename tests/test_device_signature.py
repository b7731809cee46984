"""Bundles that must be signed: what the key did not sign is not even parsed."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from hwprune.device_bundle import Malformed, Refused, main, read_manifest, verify_bundle

from .bundle_folder import BundleFolder


@pytest.fixture
def bundle(tmp_path: Path) -> BundleFolder:
    (tmp_path / "bundle").mkdir()
    return BundleFolder(tmp_path / "bundle")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public one."""
    pytest.importorskip("cryptography")
    return make_keys(tmp_path / "key")


def make_keys(path: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, private, public = Ed25519PrivateKey.generate(), path.with_suffix(".pem"), path.with_suffix(".pub")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def sign(path: Path, private: Path) -> None:
    from hwprune.deploy import SigningKey

    SigningKey(private).sign(path)


def test_a_signed_bundle(bundle: BundleFolder, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    private, public = keys
    sign(bundle.path, private)
    report = verify_bundle(bundle.path, latency=False, public_key=public)
    assert [(check["name"], check["ok"]) for check in report["checks"]] == [
        ("signature", True), ("hashes", True), ("golden", True),
    ]  # fmt: skip
    assert verify_bundle(bundle.path, latency=False)["ok"]
    assert main(["info", str(bundle.path), "--public-key", str(public)]) == 0
    assert capsys.readouterr().out.startswith("ok     signature: by ")


def test_what_the_key_did_not_sign_is_not_even_parsed(
    bundle: BundleFolder, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys
    stranger = make_keys(tmp_path / "stranger")[0]
    check = functools.partial(verify_bundle, bundle.path, public_key=public)
    monkeypatch.setattr("hwprune.device_bundle._parsed", lambda raw: pytest.fail("it was parsed"))
    assert check()["checks"][0]["detail"] == "the bundle is not signed: manifest.sig is missing"
    file = bundle.path / "manifest.sig"
    for content in (b"", b"0" * 64, b"0" * 63, b"0" * 65):
        file.write_bytes(content)
        assert check()["checks"][0]["name"] == "signature"
    monkeypatch.undo()
    sign(bundle.path, stranger)
    signature = file.read_bytes()
    monkeypatch.setattr("hwprune.device_bundle._parsed", lambda raw: pytest.fail("it was parsed"))
    assert "is not that of this manifest" in check()["checks"][0]["detail"]
    monkeypatch.undo()
    sign(bundle.path, private)
    assert file.read_bytes() != signature
    bundle.manifest["latency"]["predicted_ms"] = 0.001
    bundle.save()  # sealed anew, as a forger would
    assert "is not that of this manifest" in check()["checks"][0]["detail"]


@pytest.mark.parametrize("place", range(0, 64, 7))
def test_every_byte_of_a_signature_counts(bundle: BundleFolder, keys: tuple[Path, Path], place: int) -> None:
    sign(bundle.path, keys[0])
    content = bytearray((bundle.path / "manifest.sig").read_bytes())
    content[place] ^= 1
    (bundle.path / "manifest.sig").write_bytes(content)
    with pytest.raises(Refused, match="is not that of this manifest"):
        read_manifest(bundle.path, keys[1])


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\n", None])
def test_a_key_that_is_none(
    bundle: BundleFolder, keys: tuple[Path, Path], tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "none.pub").write_bytes(content)
    with pytest.raises(Malformed, match="is no public key"):
        read_manifest(bundle.path, tmp_path / "none.pub")
    assert main(["verify", str(bundle.path), "--public-key", str(tmp_path / "none.pub")]) == 2


def test_without_the_package_a_required_signature_is_no_pass(
    bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    assert main(["verify", str(bundle.path), "--public-key", "key.pub"]) == 2
    assert "pip install cryptography" in capsys.readouterr().err
