"""Signed bundles: by whom, and that nothing can be changed in them any more."""

import subprocess

import pytest

pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hwprune.cli import main
from hwprune.deploy import Bundle, SigningKey, verify
from hwprune.errors import BundleError, InputError

PEM = serialization.Encoding.PEM
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def private(key, path, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


@pytest.fixture
def keys(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return private(key, tmp_path / "key.pem"), tmp_path / "key.pub"


def test_a_signed_bundle_verifies_with_its_key_and_no_other(bundle, keys, tmp_path):
    with pytest.raises(BundleError, match="is not signed"):
        verify(bundle.path, latency=False, public_key=keys[1])
    SigningKey(keys[0]).sign(bundle.path)
    report = verify(bundle.path, latency=False, public_key=keys[1])
    assert [check["name"] for check in report["checks"]] == ["signature", "hashes", "golden"]
    stranger = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "other.pub").write_bytes(stranger.public_bytes(PEM, PUBLIC))
    for read in (Bundle.load, verify):
        with pytest.raises(BundleError, match="is not that of this manifest"):
            read(bundle.path, public_key=tmp_path / "other.pub")
    assert main(["verify", str(bundle.path), "--no-latency", "--public-key", str(keys[1])]) == 0
    assert main(["verify", str(bundle.path), "--no-latency", "--public-key", str(tmp_path / "other.pub")]) == 2


def test_the_signature_is_one_that_others_can_check(bundle, keys):
    SigningKey(keys[0]).sign(bundle.path)
    key = serialization.load_pem_public_key(keys[1].read_bytes())
    key.verify((bundle.path / "manifest.sig").read_bytes(), (bundle.path / "manifest.json").read_bytes())


def test_signing_twice_gives_the_same_bytes(bundle, keys):
    SigningKey(keys[0]).sign(bundle.path)
    first = (bundle.path / "manifest.sig").read_bytes()
    SigningKey(keys[0]).sign(bundle.path)
    assert (bundle.path / "manifest.sig").read_bytes() == first


def test_a_signed_bundle_is_not_completed(bundle, keys):
    assert not bundle.signed
    SigningKey(keys[0]).sign(bundle.path)
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="is signed: its manifest cannot be changed"):
        bundle.complete({"p50_ms": 1.0}, {})
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_a_changed_bundle_is_not_signed(bundle, keys):
    with (bundle.path / "manifest.json").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(BundleError, match="was changed"):
        SigningKey(keys[0]).sign(bundle.path)


@pytest.mark.parametrize("kind", ["nothing", "junk", "public", "curve", "locked"])
def test_what_is_no_key_for_signing(keys, tmp_path, kind):
    path = {"public": keys[1]}.get(kind, tmp_path / "other.pem")
    if kind == "junk":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    elif kind == "curve":
        private(ec.generate_private_key(ec.SECP256R1()), path)
    elif kind == "locked":
        lock = serialization.BestAvailableEncryption(b"secret")
        private(ed25519.Ed25519PrivateKey.generate(), path, lock)
    with pytest.raises(InputError, match="private key") as caught:
        SigningKey(path)
    assert "openssl genpkey -algorithm ed25519" in caught.value.hint


def test_keys_of_openssl(bundle, tmp_path):
    """As the hint says."""
    secret, public = tmp_path / "a.pem", tmp_path / "a.pub"
    try:
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", secret], check=True, timeout=60)
        subprocess.run(["openssl", "pkey", "-in", secret, "-pubout", "-out", public], check=True, timeout=60)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl that makes these keys")
    SigningKey(secret).sign(bundle.path)
    assert verify(bundle.path, latency=False, public_key=public)["ok"]
