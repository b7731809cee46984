"""Signing a bundle, so that whoever has the public key can tell who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwprune.deploy.bundle import Bundle
from hwprune.device_bundle import MANIFEST, SIGNATURE
from hwprune.errors import InputError
from hwprune.files import write_atomic


class SigningKey:
    """A private Ed25519 key (RFC 8032) from a file.

    Args:
        path: PEM (PKCS 8), without a password.

    Raises:
        InputError: there is no such key in it, or the package cryptography is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError as error:
            raise InputError(
                "bundles are signed with the package cryptography, which is not installed",
                hint="pip install 'hwprune[signing]'",
            ) from error
        try:
            key: Any = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:  # a TypeError for a key that needs a password
            raise InputError(f"{path} is no private key: {error}", hint=_HINT) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{path} is a private key of another kind", hint=_HINT)
        self._key = key

    def sign(self, bundle: Path | str) -> None:
        """Write ``manifest.sig``: 64 bytes, over the bytes of the manifest, which holds the hashes of all other files.

        Raises:
            BundleError: there is no bundle, or its manifest was changed.
            OSError: the folder cannot be written.
        """
        content = (Bundle.load(bundle).path / MANIFEST).read_bytes()
        write_atomic(Path(bundle) / SIGNATURE, self._key.sign(content))


_HINT = "make one with: openssl genpkey -algorithm ed25519 -out KEY.pem; openssl pkey -in KEY.pem -pubout -out KEY.pub"
