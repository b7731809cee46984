from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.errors import InputError
from hwprune.targets.address import Address


@pytest.mark.parametrize(
    ("text", "address", "arguments"),
    [
        ("ssh://pi", Address("pi"), ["--", "pi"]),
        ("ssh://pi@10.0.0.7", Address("10.0.0.7", "pi"), ["-l", "pi", "--", "10.0.0.7"]),
        ("ssh://me.too-2@jet_son.lan:2222", Address("jet_son.lan", "me.too-2", 2222), None),
        ("ssh://[fe80::1]:22", Address("fe80::1", None, 22), ["-p", "22", "--", "fe80::1"]),
    ],
)
def test_addresses(text: str, address: Address, arguments: list[str] | None) -> None:
    assert Address.parse(text) == address
    assert arguments is None or address.arguments() == arguments


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://@pi",
        "ssh://-oProxyCommand=touch trap",
        "ssh://-oProxyCommand=x",
        "ssh://-l@pi",
        "ssh://pi@-host",
        "ssh://pi;reboot",
        "ssh://pi host",
        "ssh://pi\n",
        "ssh://$(reboot)",
        "ssh://`reboot`",
        "ssh://pi/",
        "ssh://pi/path",
        "ssh://user:secret@pi",
        "ssh://a@b@c",
        "ssh://pi:",
        "ssh://pi:0",
        "ssh://pi:65536",
        "ssh://pi:99999999",
        "ssh://pi:-1",
        "ssh://pi:２２",  # digits, but not ASCII's
        "ssh://ﬁ",
        "ssh://%h",
        "ssh://fe80::1",
        "SSH://pi",
        " ssh://pi",
        "http://pi",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Address.parse(text)
    assert caught.value.hint


@given(st.text())
def test_nothing_odd_gets_through(text: str) -> None:
    try:
        address = Address.parse(f"ssh://{text}")
    except InputError:
        return
    assert address.arguments()[-1][0] not in "-/"
    assert not set(" '\"\\$`;&|<>()\n\t*?{}!#~%") & set("".join(address.arguments()))
