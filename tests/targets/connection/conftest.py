"""A device on this machine: a real sshd on a free loopback port, or, where that cannot be, a plain shell."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from hwprune.targets import Target
from hwprune.targets.connection import packed, session, ssh
from hwprune.targets.connection.channel import Channel

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


@dataclass
class Device:
    """Where the worker runs.

    Attributes:
        target: how to reach it.
        home: what stands beside the folder for temporary files: the worker's ``log``, the ``gate`` it may wait for.
        listener: pid of the sshd.
    """

    target: Target
    home: Path
    listener: int = 0

    @property
    def folders(self) -> list[Path]:
        """What connections have left there."""
        return list((self.home / "tmp").iterdir())

    @property
    def log(self) -> list[str]:
        path = self.home / "log"
        return path.read_text().splitlines() if path.exists() else []

    def open_gate(self) -> None:
        (self.home / "gate").touch()

    def cut(self) -> None:
        """Kill what serves the connections, as if the network were gone."""
        for pid in children(self.listener):
            kill(pid)

    def shut_down(self) -> None:
        """The same, and nobody will answer again."""
        for pid in (self.listener, *children(self.listener)):
            kill(pid)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


Wait = Callable[[Callable[[], bool]], None]
Shell = tuple[Device, Callable[[list[str]], Channel]]


def children(parent: int) -> list[int]:
    """Pids of its children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is given a worker that makes its numbers up."""
    software = {"worker.py": FAKE_WORKER.read_bytes(), "run.py": b"# not used\n"}
    for module in (ssh, packed):
        monkeypatch.setattr(module, "device_files", lambda runtime, worker: dict(software))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's end waits a moment for the next connection, not minutes."""
    patient = session._receiver()
    changed = patient.replace(b"LINGER_S = 900", b"LINGER_S = 0.2")
    assert changed != patient
    monkeypatch.setattr(session, "_receiver", lambda: changed)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "device" / "tmp").mkdir(parents=True)
    return tmp_path / "device"


@pytest.fixture
def shell(home: Path) -> Shell:
    """A device without ssh, and what dials it: the command that ssh would be given runs in a shell here."""

    def dial(words: list[str]) -> Channel:
        return Channel(["sh", "-c", f"TMPDIR={shlex.quote(str(home / 'tmp'))} exec {words[-1]}"])

    return Device(Target(name="shell", connection="ssh://nowhere", python=sys.executable), home), dial


@pytest.fixture
def sshd(home: Path, tmp_path: Path) -> Iterator[Device]:
    """A device behind a real sshd, with keys made for it."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    if not (program and shutil.which("ssh") and shutil.which("ssh-keygen")):
        pytest.skip("OpenSSH's client and server are not both installed (Debian: openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # without it sshd refuses to start; boot scripts make it
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/user_key.pub\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nMaxStartups 100\nSetEnv TMPDIR={home}/tmp\n"
    )
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "config").write_text(
        f"Host *\nIdentityFile {folder}/user_key\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        f"GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
        f"Host device\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", f"{folder}/sshd_config"], stderr=log)
    try:
        _wait_for(["ssh", "-F", f"{folder}/config", "-o", "BatchMode=yes", "device", "true"], folder / "log")
        settings = {"python": sys.executable, "ssh_config": f"{folder}/config"}
        target = Target(name="device", connection="ssh://device", **settings)
        yield Device(target, home, process.pid)
    finally:
        for pid in children(process.pid):
            kill(pid)
        process.kill()
        process.wait()


def _wait_for(command: list[str], log: Path) -> None:
    for _ in range(50):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    pytest.skip(f"sshd does not let us in here: {done.stderr.strip()} {log.read_text()[-1000:]}")


@pytest.fixture
def wait() -> Wait:
    """Wait until something holds; fail if it never does."""

    def until(holds: Callable[[], bool]) -> None:
        for _ in range(600):
            if holds():
                return
            time.sleep(0.05)
        pytest.fail("it never came about")

    return until
