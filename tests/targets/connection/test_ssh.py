"""Against a real sshd, with a worker that makes its numbers up."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from hwprune.errors import HwpruneError, InputError, MeasurementError
from hwprune.targets.connection import ssh as module
from hwprune.targets.connection._base import Visit
from hwprune.targets.connection.channel import Channel
from hwprune.targets.connection.ssh import SshConnection

from .asked import FIXED, visit, visits
from .conftest import Device, Shell, Wait, children
from .fake_worker import FINGERPRINT, reply

pytestmark = pytest.mark.usefixtures("fake_worker")
OLDEST = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))  # pyenv's own command fails where it is off
SOON = (0.05, 0.1, 0.2, 0.4)


def connect(device: Device, **settings: Any) -> SshConnection:
    changes = {name: settings.pop(name) for name in ("python", "connection", "ssh_config") if name in settings}
    return SshConnection(dataclasses.replace(device.target, **changes), **FIXED, **{"pauses_s": SOON, **settings})


def expected(asked: Visit) -> dict[str, Any]:
    settings = {name: getattr(asked, name) for name in ("id", "models", "instrumented", "rounds", "burst")}
    made: dict[str, Any] = reply(settings)
    return made


def interpreter(path: Path, script: str) -> str:
    """A program that stands in for the device's Python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def visited(device: Device) -> list[str]:
    return [line.removeprefix("visit ") for line in device.log if line.startswith("visit ")]


def test_replies_come_back_in_order_and_nothing_stays_there(sshd: Device) -> None:
    asked = visits("a", "b", "c")
    with connect(sshd) as connection:
        assert connection.fingerprint() == FINGERPRINT
        assert list(connection.run(asked)) == [expected(one) for one in asked]
        (folder,) = sshd.folders
        assert folder.stat().st_mode & 0o777 == 0o700
    assert sshd.folders == []
    assert visited(sshd) == ["a", "b", "c"]


def test_an_address_in_full(sshd: Device) -> None:
    config = Path(sshd.target.ssh_config or "").read_text()
    port, user = (config.split(f"\n{word} ")[1].split("\n")[0] for word in ("Port", "User"))
    with connect(sshd, connection=f"ssh://{user}@127.0.0.1:{port}") as connection:
        assert [one["id"] for one in connection.run(visits("a"))] == ["a"]


def test_what_is_asked_again_is_measured_again(sshd: Device) -> None:
    with connect(sshd) as connection:
        for _ in range(2):
            assert [one["id"] for one in connection.run(visits("a"))] == ["a"]
    assert visited(sshd) == ["a", "a"]


def test_models_are_there_a_bounded_number_at_a_time(sshd: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = visits("a", "b", "c")
    bytes_of = [sum(map(len, {**FIXED, **one.models}.values())) for one in asked]
    monkeypatch.setattr(module, "CHUNK_BYTES", bytes_of[0] + bytes_of[1] - sum(map(len, FIXED.values())))
    with connect(sshd) as connection:
        assert [one["id"] for one in connection.run(asked)] == ["a", "b", "c"]
    folders = [line for line in sshd.log if line.startswith("worker")]
    assert [line.count("'model-") for line in folders] == [2 + 4, 2 + 2]
    assert all("with 0 lines of results" in line for line in folders)


def test_a_kill_of_the_connection_in_the_middle_costs_no_finished_visit(sshd: Device, wait: Wait) -> None:
    asked = visits("a", "wait for it", "c")
    with connect(sshd) as connection:
        replies = connection.run(asked)
        assert next(replies) == expected(asked[0])
        wait(lambda: visited(sshd) == ["a", "wait for it"])
        sshd.cut()
        sshd.open_gate()
        assert list(replies) == [expected(one) for one in asked[1:]]
    assert visited(sshd) == ["a", "wait for it", "wait for it", "c"]
    assert sshd.folders == []


def test_a_kill_of_our_own_ssh_in_the_middle(sshd: Device) -> None:
    asked = visits("a", "wait for it")
    with connect(sshd) as connection:
        replies = connection.run(asked)
        assert next(replies) == expected(asked[0])
        config = str(sshd.target.ssh_config).encode()
        (client,) = [pid for pid in children(os.getpid()) if config in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(client, signal.SIGKILL)
        sshd.open_gate()
        assert list(replies) == [expected(asked[1])]
    assert sshd.folders == []


def test_a_connection_that_breaks_while_models_are_sent(sshd: Device) -> None:
    sent: list[bytes] = []

    class Breaking(Channel):
        def send(self, content: bytes, *, limit_s: float) -> None:
            sent.append(content)
            if sent.count(b"half of b") == 1 and content == b"half of b":
                self._process.kill()
            super().send(content, limit_s=limit_s)

    asked = visits("a", "b")
    with connect(sshd, dial=Breaking) as connection:
        assert list(connection.run(asked)) == [expected(one) for one in asked]
    assert sent.count(b"half of b") == 2
    assert visited(sshd) == ["a", "b"]
    assert sshd.folders == []


def test_what_finished_while_nobody_listened_counts(sshd: Device, wait: Wait) -> None:
    """The worker goes on until somebody notices that the connection is gone; none of it is done again."""
    asked = visits("a", "b", "c", "d")
    with connect(sshd) as connection:
        replies = connection.run(asked)
        assert next(replies) == expected(asked[0])
        (folder,) = sshd.folders
        wait(lambda: (folder / "results.jsonl").read_text().count("\n") == 5)
        sshd.cut()
        assert list(replies) == [expected(one) for one in asked[1:]]
    assert visited(sshd) == ["a", "b", "c", "d"]
    assert sshd.folders == []


def test_a_connection_that_broke_while_nothing_was_asked(sshd: Device, wait: Wait) -> None:
    with connect(sshd) as connection:
        assert list(connection.run(visits("a"))) == [expected(visit("a"))]
        sshd.cut()
        assert list(connection.run(visits("b"))) == [expected(visit("b"))]
        sshd.cut()
    assert sshd.folders == []


def test_a_device_that_restarted_is_given_everything_again(sshd: Device) -> None:
    asked = visits("a", "wait for it")
    with connect(sshd) as connection:
        replies = connection.run(asked)
        assert next(replies) == expected(asked[0])
        (folder,) = sshd.folders
        os.killpg(int((folder / "lock").read_text()), signal.SIGKILL)
        sshd.cut()
        shutil.rmtree(folder)
        sshd.open_gate()
        assert list(replies) == [expected(asked[1])]
    assert sshd.folders == []


def test_files_changed_on_the_device_between_connections_are_never_run(sshd: Device) -> None:
    asked = visits("a", "wait for it")
    with connect(sshd) as connection:
        replies = connection.run(asked)
        next(replies)
        (folder,) = sshd.folders
        for name in ("worker.py", "run.py"):
            (folder / name).write_text(f"open({str(sshd.home / 'evil')!r}, 'w')\n")
        (folder / "numpy.py").write_text(f"open({str(sshd.home / 'evil')!r}, 'w')\n")
        sshd.cut()
        sshd.open_gate()
        assert list(replies) == [expected(asked[1])]
    assert not (sshd.home / "evil").exists()


def test_what_does_not_arrive_as_it_was_sent_is_not_run(sshd: Device) -> None:
    class Noise(Channel):
        def send(self, content: bytes, *, limit_s: float) -> None:
            super().send(content.replace(b"half of a", b"half of b"), limit_s=limit_s)

    with connect(sshd, dial=Noise) as connection:
        with pytest.raises(InputError, match=r"model-\w+ did not arrive as it was sent .* nothing was run"):
            list(connection.run(visits("a")))
        assert sshd.folders == []
    assert sshd.log == []


def test_a_receiver_that_does_not_arrive_as_it_was_sent_is_not_run(sshd: Device) -> None:
    class Noise(Channel):
        def send(self, content: bytes, *, limit_s: float) -> None:
            super().send(content.replace(b"import fcntl", b"import FCNTL"), limit_s=limit_s)

    with connect(sshd, dial=Noise) as connection, pytest.raises(InputError, match="did not arrive whole"):
        connection.fingerprint()
    assert sshd.folders == []


def test_names_with_every_odd_character(sshd: Device, tmp_path: Path) -> None:
    trap = sshd.home / "trap"
    name = f"""it's "$(touch {trap})" `touch {trap}`; touch {trap} & \\ \n é # --help"""
    (tmp_path / "it's $HOME `x` & more").mkdir()
    python = interpreter(tmp_path / "it's $HOME `x` & more" / "py", f'exec {shlex.quote(sys.executable)} "$@"')
    asked = visit(name, models={name: b"1", "-o": b"2"}, instrumented=(name,))
    with connect(sshd, python=python) as connection:
        assert list(connection.run([asked])) == [expected(asked)]
    assert not trap.exists()
    assert sshd.folders == []


def test_a_busy_device_and_a_crash_are_errors_and_nothing_stays(sshd: Device) -> None:
    for name, kind, message in (
        ("refuse", MeasurementError, "measuring refuse: the device is too busy"),
        ("crash", InputError, "the worker on the device ended with status -6: out of luck"),
    ):
        with connect(sshd) as connection:
            replies = connection.run(visits("a", name, "wait for ever"))
            assert next(replies)["id"] == "a"
            with pytest.raises(kind, match=message) as caught:
                next(replies)
            assert caught.value.hint
        assert sshd.folders == []


def test_who_stops_listening_stops_the_worker(sshd: Device, wait: Wait) -> None:
    with connect(sshd) as connection:
        for _ in connection.run(visits("a", "wait for ever")):
            break
    assert sshd.folders == []
    wait(lambda: children(sshd.listener) == [])


def test_a_device_that_never_comes_back(sshd: Device, hasty: None, wait: Wait) -> None:
    with connect(sshd) as connection:
        replies = connection.run(visits("a", "wait for ever"))
        next(replies)
        sshd.shut_down()
        with pytest.raises(MeasurementError, match=r"was lost and not found again in 4 attempts: .*refused") as caught:
            next(replies)
        assert "device is on" in caught.value.hint
    wait(lambda: sshd.folders == [])


def test_without_a_key_it_says_what_must_work(sshd: Device, tmp_path: Path) -> None:
    config = tmp_path / "other config"
    config.write_text(Path(sshd.target.ssh_config or "").read_text().replace("user_key", "host_key"))
    with connect(sshd, ssh_config=str(config)) as connection, pytest.raises(InputError, match="denied") as caught:
        connection.fingerprint()
    assert "ssh -F '" in caught.value.hint
    assert caught.value.hint.endswith("-- device true")


def test_an_unknown_host_key_is_refused(sshd: Device, tmp_path: Path) -> None:
    (tmp_path / "ssh" / "known_hosts").write_text("")
    with connect(sshd) as connection, pytest.raises(InputError, match="Host key verification failed"):
        connection.fingerprint()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 127", "has no .*fake"),
        ("echo hello", "the device's answer is not JSON"),
        ("echo '{\"hello\": 1}'", "the device's answer has the unknown key 'hello'"),
        ("echo '[]'", "is a list, not an object"),
        ("head -c 100 /dev/urandom; echo", "the device's answer is not"),
        ("yes | tr -d '\\n'", "sent a line of more than"),
        ("yes '{\"missing\": []}'", "unknown key 'missing'"),
        ('echo \'{"missing": ["/etc/passwd"]}\'', "asks for '/etc/passwd', which it has no use for"),
        ('echo \'{"missing": ["run.py", "run.py"]}\'', "asks for 'run.py', which it has no use for"),
        ("exit 3", "Python ended with status 3"),
        ("printf 'bad \\033[2J luck' >&2; exit 3", r"Python ended with status 3: bad  \[2J luck"),
        ("exit 0", "cannot be used"),
        ("kill -9 $$", "cannot be used"),
        ('echo \'{"problem": "no room"}\'', "no room"),
    ],
)
def test_a_device_that_talks_nonsense(shell: Shell, tmp_path: Path, script: str, message: str) -> None:
    device, dial = shell
    python = interpreter(tmp_path / "fake", script)
    with connect(device, python=python, dial=dial) as connection, pytest.raises(HwpruneError, match=message):
        list(connection.run(visits("a")))


def test_an_old_python_is_named(sshd: Device, tmp_path: Path) -> None:
    old = "import sys; sys.version_info = (3, 7, 1); exec(sys.argv.pop())"
    python = interpreter(tmp_path / "old", f'shift; exec {shlex.quote(sys.executable)} -c {shlex.quote(old)} "$@"')
    with connect(sshd, python=python) as connection, pytest.raises(InputError, match=r"needs Python 3\.8 or later"):
        connection.fingerprint()


def test_the_oldest_python_that_we_promise(shell: Shell) -> None:
    device, dial = shell
    python = next(iter([*OLDEST, *filter(None, [shutil.which("python3.8")])]), None)
    if python is None:
        pytest.skip("there is no Python 3.8 here")
    with connect(device, python=str(python), dial=dial) as connection:
        assert [one["id"] for one in connection.run(visits("a", "b"))] == ["a", "b"]
    assert device.folders == []


def test_a_folder_of_somebody_else_is_not_used(sshd: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    (sshd.home / "tmp" / "hwprune-known").mkdir(mode=0o777)
    (sshd.home / "tmp" / "hwprune-known").chmod(0o777)
    monkeypatch.setattr(module.secrets, "token_hex", lambda _: "known")
    with connect(sshd) as connection, pytest.raises(InputError, match="belongs to somebody else"):
        connection.fingerprint()


def test_there_is_no_ssh(sshd: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with connect(sshd) as connection, pytest.raises(InputError, match="cannot run ssh") as caught:
        connection.fingerprint()
    assert "openssh-client" in caught.value.hint


def test_nobody_comes_back_for_the_folder(sshd: Device, hasty: None, wait: Wait) -> None:
    """The device's own end cleans up when the other end is gone for good."""
    replies = connect(sshd).run(visits("a", "wait for ever"))
    next(replies)
    assert len(sshd.folders) == 1
    sshd.cut()
    wait(lambda: sshd.folders == [])
    replies.close()
