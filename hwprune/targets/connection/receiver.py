"""What runs on a device while a connection over ssh is open: takes files in, checks them, runs the worker, cleans up.

Its text is sent through the ssh channel and executed from memory by the device's Python, 3.8 or later, with nothing but
its standard library. Every line of stdin is an order, every line of stdout an answer, all of them JSON objects:

* ``{"do": "run", "folder": NAME, "files": {NAME: {"sha256", "bytes"}}}``: answers ``{"missing": [NAME, …]}`` and takes
  the contents of these from stdin, in that order; when every file is as recorded it runs ``worker.py FOLDER`` and
  passes on the lines of ``results.jsonl``, those of earlier connections first; at the end
  ``{"finished": EXIT_STATUS, "stderr": TEXT}``.
* ``{"do": "remove", "folder": NAME}``: answers ``{"removed": NAME}``.
* ``{"problem": SENTENCE}`` instead of any of these; then the folder is removed and nothing more is done.

The folder is a private one inside the device's folder for temporary files. When the connection breaks, the worker is
stopped and the folder waits for another connection, which ends this process; if none comes, the folder is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

LINGER_S = 900  # how long a folder waits for the next connection
PIECE = 1 << 20
TAIL = 4000
JOB, WORKER, RESULTS, LOCK = "job.json", "worker.py", "results.jsonl", "lock"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


class Problem(Exception):
    """What cannot be done here, in a sentence for the person at the other end."""


class Gone(Exception):
    """Nobody is at the other end any more."""


def say(line: bytes) -> None:
    """Send one line."""
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        raise Gone from error


def answer(**document: Any) -> None:
    """Send one JSON object."""
    say(json.dumps(document).encode())


def plain(name: str) -> str:
    """A file name that stays in its folder."""
    if not _PLAIN.fullmatch(name):
        raise Problem(f"{name!r} is no plain file name")
    return name


class Folder:
    """The private folder; whoever holds its lock works in it, and ends whoever held it before."""

    def __init__(self, name: str) -> None:
        self.path = os.path.join(tempfile.gettempdir(), plain(name))
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            found = os.lstat(self.path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise Problem(f"{self.path} on the device belongs to somebody else") from None
        self._lock = os.open(self.file(LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(200):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                holder = os.pread(self._lock, 20, 0)
                with suppress(ProcessLookupError, ValueError):
                    os.killpg(int(holder), signal.SIGKILL)
                time.sleep(0.05)
        else:
            raise Problem(f"another process works in {self.path} on the device and cannot be stopped")
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d" % os.getpid(), 0)

    def file(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, plain(name))

    def differing(self, files: dict[str, Any]) -> list[str]:
        """Names of files that are not there as recorded."""
        return [name for name, record in files.items() if not self._is(self.file(name), record)]

    def _is(self, path: str, record: dict[str, Any]) -> bool:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != record["bytes"]:
            return False
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(PIECE), b""):
                digest.update(piece)
        return bool(digest.hexdigest() == record["sha256"])

    def tidy(self, files: dict[str, Any]) -> None:
        """Remove what earlier jobs left; the results of this one stay."""
        keep = {*files, LOCK} if self.differing({JOB: files[JOB]}) else {*files, LOCK, RESULTS}
        for name in set(os.listdir(self.path)) - keep:
            path = os.path.join(self.path, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)

    def store(self, name: str, record: dict[str, Any]) -> None:
        """Take one file from stdin."""
        left, digest = record["bytes"], hashlib.sha256()
        with open(self.file(name), "wb") as file:
            while left:
                piece = sys.stdin.buffer.read(min(left, PIECE))
                if not piece:
                    raise Gone
                digest.update(piece)
                file.write(piece)
                left -= len(piece)
        if digest.hexdigest() != record["sha256"]:
            os.unlink(self.file(name))
            raise Problem(f"{name} did not arrive as it was sent (its hash differs); nothing was run")

    def start(self, errors: Any) -> subprocess.Popen[bytes]:
        """The worker; it holds the lock as long as it lives."""
        command = [sys.executable, self.file(WORKER), self.path]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": self.path}  # runtimes leave files, too
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=self.path,
            env=environment,
            pass_fds=(self._lock,),
        )

    def remove(self) -> None:
        """Leave nothing, unless it is another's meanwhile."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.file(LOCK)), os.fstat(self._lock)):
                shutil.rmtree(self.path)
        os.close(self._lock)


def pass_on(folder: Folder, start: int) -> int:
    """Send the complete lines of the results from a place on; returns the place after them."""
    with suppress(FileNotFoundError), open(folder.file(RESULTS), "rb") as file:
        file.seek(start)
        lines, end, _ = file.read().rpartition(b"\n")
        if end:
            say(lines)
            return start + len(lines) + 1
    return start


def run(folder: Folder, files: dict[str, Any]) -> None:
    """Everything from the files to the worker's last line."""
    folder.tidy(files)
    missing = folder.differing(files)
    needed, free = sum(files[name]["bytes"] for name in missing), shutil.disk_usage(folder.path).free
    if needed > free:
        raise Problem(f"{folder.path} on the device has room for {free} bytes, and {needed} are needed")
    answer(missing=missing)
    for name in missing:
        folder.store(name, files[name])
    changed = folder.differing(files)
    if changed:
        raise Problem(f"changed on the device: {', '.join(changed)}; nothing was run")
    place = pass_on(folder, 0)
    with tempfile.TemporaryFile() as errors:
        worker = folder.start(errors)
        try:
            while _worker_said_something(worker):
                place = pass_on(folder, place)
            status = worker.wait()
        finally:
            worker.kill()
            worker.wait()
        pass_on(folder, place)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL))
        answer(finished=status, stderr=errors.read().decode(errors="replace"))


def _worker_said_something(worker: subprocess.Popen[bytes]) -> bool:
    """Wait for its next words; False when it has ended."""
    assert worker.stdout is not None
    ready, _, _ = select.select([worker.stdout, sys.stdin.buffer], [], [])
    if worker.stdout not in ready:  # nobody orders anything now, so this is the end of the connection
        raise Gone
    return bool(os.read(worker.stdout.fileno(), 65536))


def linger(folder: Folder) -> None:
    """Let the connection end, wait for another one, which ends this process, and remove the folder when none comes."""
    if os.fork():
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    time.sleep(LINGER_S)
    folder.remove()
    os._exit(0)


def main() -> None:
    """Follow orders until the connection ends."""
    with suppress(PermissionError):  # it leads its group already
        os.setsid()
    os.umask(0o077)
    folder = None
    try:
        for line in iter(sys.stdin.buffer.readline, b""):
            order = json.loads(line)
            folder = folder or Folder(order["folder"])
            if order["do"] == "run":
                run(folder, order["files"])
                continue
            folder.remove()
            folder = None
            answer(removed=order["folder"])
    except (Problem, OSError) as error:
        if folder is not None:
            folder.remove()
            folder = None
        with suppress(Gone):
            answer(problem=_sentence(error))
    except Gone:
        pass
    if folder is not None:
        linger(folder)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"on the device, {error.filename or 'its system'}: {error.strerror or error}"
    return str(error)


if __name__ == "__main__":
    main()
