"""What leaves with a signature, and what does not leave because there is no key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwprune.cli import main

from .workshop import MODEL


@pytest.mark.parametrize("what", ["finished", MODEL])
def test_export_signs(workshop: Path, what: str) -> None:
    pytest.importorskip("cryptography")
    from ..test_device_signature import make_keys

    private, public = make_keys(workshop / "key")
    assert main(["export", *what.split(), "--sign", str(private), "--output", "out"]) == 0
    assert main(["verify", "out", "--no-latency", "--public-key", str(public)]) == 0
    assert main(["verify", "finished/bundle", "--no-latency", "--public-key", str(public)]) == 2


def test_nothing_is_written_without_a_key(workshop: Path, capsys: Any) -> None:
    for key in ("nowhere.pem", "models.py"):
        assert main(["export", "finished", "--sign", key, "--output", "out"]) == 2
        assert not (workshop / "out").exists()
    assert "hint: " in capsys.readouterr().err
