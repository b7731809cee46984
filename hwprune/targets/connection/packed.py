"""A device with no network from here: a kit goes there on a stick, a file of results comes back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hwprune.errors import InputError
from hwprune.files import replacing_file
from hwprune.targets.connection._base import Connection, Visit
from hwprune.targets.connection.channel import MAX_LINE
from hwprune.targets.connection.job import job_document, record, request
from hwprune.targets.connection.replies import printable, read_fingerprint, read_reply
from hwprune.targets.device_files import device_files
from hwprune.targets.known import runtime_for
from hwprune.targets.target import Target

KIT, RESULTS = "hwprune-kit", "results.jsonl"
MAX_MEMBERS = 100_000
_HINT = f"give the {RESULTS} that the kit's worker wrote, its folder, or an uncompressed tar of that folder"
_README = """\
This kit measures latencies for hwprune on a device with Python 3.8 or later, numpy and the runtime {runtime!r}. Copy
it there, leave everything else on the device at rest, and run these:

    tar xf kit.tar
    cd {kit}
    python3 worker.py .

The worker opens nothing whose hash differs from job.json, and appends to {results} after every visit. Run it again
if it was stopped: it goes on where it was. When it is done, bring {results} back and give it to
hwprune profile --unpack.
"""


def pack(visits: Iterable[Visit], target: Target, *, null: bytes, anchor: bytes, path: Path) -> None:
    """Write a kit: the same visits give the same bytes; the file appears whole or not at all.

    Args:
        visits: what to measure; taken one at a time, so that only one's models are in memory.
        target: the device; its connection does not matter.
        null: a model that does nothing; it and the anchor take part in every visit.
        anchor: a model that is always the same.
        path: the tar file to write.

    Raises:
        InputError: the target names no runtime of ours.
        OSError: the file cannot be written.
    """
    runtime_for(target)
    documents: list[dict[str, Any]] = []
    files: dict[str, dict[str, Any]] = {}
    with replacing_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as kit:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{KIT}/{name}")
            member.size, member.mode = len(content), 0o644
            kit.addfile(member, io.BytesIO(content))

        def add_once(contents: dict[str, bytes]) -> None:
            for name in sorted(set(contents) - set(files)):
                files[name] = record(contents[name])
                add(name, contents[name])

        add("README.txt", _README.format(runtime=target.runtime, kit=KIT, results=RESULTS).encode())
        add_once(device_files(target.runtime, worker=True))
        for visit in visits:
            one = request(visit, target, null=null, anchor=anchor)
            add_once(one.models)
            documents.append(one.document)
        add("job.json", job_document(target.runtime, documents, files))


class UnpackedConnection(Connection):
    """Replays what a kit's worker wrote, for the visits that the kit was packed from.

    Args:
        path: the results, the folder that holds them, or a tar of it.
        target: as the kit was packed for.
        null: as the kit was packed with.
        anchor: as the kit was packed with.

    Raises:
        InputError: no such file, or nothing of this kind.
    """

    def __init__(self, path: Path, target: Target, *, null: bytes, anchor: bytes) -> None:
        self._path, self._target, self._null, self._anchor = path, target, null, anchor
        with self._reading() as file:
            self._device = read_fingerprint(_line(file, "its fingerprint"), target.runtime)

    def fingerprint(self) -> dict[str, Any]:
        """See ``Connection.fingerprint``."""
        return self._device

    def run(self, visits: Iterable[Visit]) -> Iterator[dict[str, Any]]:
        """See ``Connection.run``.

        Args:
            visits: all that the kit was packed from, in that order.

        Raises:
            InputError: the file is malformed, incomplete, or of another kit.
            MeasurementError: the device was too busy.
            ModelError: it could not run a model.
        """
        with self._reading() as file:
            _line(file, "its fingerprint")
            for visit in visits:
                one = request(visit, self._target, null=self._null, anchor=self._anchor)
                yield read_reply(_line(file, f"visit {visit.id}"), one.id, visit)
            if file.readline(1):
                raise InputError("there are answers to more visits than were asked for", hint=_HINT)

    @contextmanager
    def _reading(self) -> Iterator[IO[bytes]]:
        """The results, open; errors name the file."""
        path = self._path / RESULTS if self._path.is_dir() else self._path
        try:
            with path.open("rb") as file:
                if file.read(1) == b"{":
                    file.seek(0)
                    yield file
                else:
                    file.seek(0)
                    with tarfile.open(fileobj=file, mode="r:") as archive, _results(archive) as results:
                        yield results
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}", hint=_HINT) from error
        except (tarfile.TarError, EOFError) as error:
            raise InputError(f"{path} holds no results: {error}", hint=_HINT) from error
        except InputError as error:
            raise type(error)(f"{path}: {error.message}", hint=error.hint) from None


def _results(archive: tarfile.TarFile) -> IO[bytes]:
    """The one member that matters; an archive with anything odd in it is not read."""
    found = None
    for count, member in enumerate(archive):
        path = PurePosixPath(member.name)
        if count == MAX_MEMBERS or path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise InputError(f"{printable(member.name)!r} has no place in an archive of results", hint=_HINT)
        if path.name == RESULTS and len(path.parts) <= 2:
            if found is not None or member.issparse():
                raise InputError(f"the archive holds more than one {RESULTS}, or an odd one", hint=_HINT)
            found = archive.extractfile(member)
    if found is None:
        raise InputError(f"the archive has no {RESULTS}", hint=_HINT)
    return found


def _line(file: IO[bytes], about: str) -> bytes:
    line = file.readline(MAX_LINE + 1)
    if line.endswith(b"\n"):
        return line[:-1]
    if len(line) > MAX_LINE:
        raise InputError(f"the answer about {about} is longer than {MAX_LINE} bytes", hint=_HINT)
    raise InputError(
        f"there is no answer about {about} in it", hint="run the worker again on the device: it goes on where it was"
    )
