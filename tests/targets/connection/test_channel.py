from __future__ import annotations

import sys

import pytest

from hwprune.errors import InputError, MeasurementError
from hwprune.targets.connection import channel as module
from hwprune.targets.connection.channel import Channel, ConnectionLost

LONG = 60.0


def program(code: str) -> Channel:
    return Channel([sys.executable, "-c", f"import sys, os, time\n{code}"])


def test_bytes_in_lines_out() -> None:
    channel = program("for line in sys.stdin: print(line.strip()[::-1], flush=True)")
    channel.send(b"abc\ndef\n", limit_s=LONG)
    assert [channel.receive(limit_s=LONG), channel.receive(limit_s=LONG)] == [b"cba", b"fed"]
    assert channel.close(LONG) == (0, "")


def test_lines_that_come_in_pieces() -> None:
    channel = program("for piece in ('a', 'b\\nc', '\\n\\n'): print(end=piece, flush=True); time.sleep(0.05)")
    assert [channel.receive(limit_s=LONG) for _ in range(3)] == [b"ab", b"c", b""]
    channel.close()


def test_much_more_than_a_pipe_holds() -> None:
    channel = program("print(len(sys.stdin.buffer.read(10_000_000)))")
    channel.send(b"x" * 10_000_000, limit_s=LONG)
    assert channel.receive(limit_s=LONG) == b"10000000"
    channel.close()


def test_the_end_tells_status_and_last_words() -> None:
    channel = program("print('a line'); sys.stderr.write('x' * 100_000 + 'farewell'); sys.exit(7)")
    assert channel.receive(limit_s=LONG) == b"a line"
    with pytest.raises(ConnectionLost, match=r"x+farewell$") as caught:
        channel.receive(limit_s=LONG)
    assert caught.value.status == 7
    assert not caught.value.by_accident
    assert len(str(caught.value)) == module.TAIL


@pytest.mark.parametrize("end", ["sys.exit(255)", "os.kill(os.getpid(), 9)", "sys.exit(0)"])
def test_ends_that_a_new_connection_may_mend(end: str) -> None:
    with pytest.raises(ConnectionLost) as caught:
        program(end).receive(limit_s=LONG)
    assert caught.value.by_accident


def test_half_a_line_is_no_line() -> None:
    with pytest.raises(ConnectionLost):
        program("print(end='half', flush=True)").receive(limit_s=LONG)


def test_last_words_are_heard_although_nobody_listened_any_more() -> None:
    channel = program("print('no room', flush=True)")
    channel.send(b"x" * 10_000_000, limit_s=LONG)
    assert channel.receive(limit_s=LONG) == b"no room"
    with pytest.raises(ConnectionLost):
        channel.receive(limit_s=LONG)


def test_silence_has_an_end() -> None:
    channel = program("time.sleep(600)")
    with pytest.raises(MeasurementError, match=r"did not do its part within 0\.1 s"):
        channel.receive(limit_s=0.1)


def test_nobody_taking_what_is_sent_has_an_end() -> None:
    channel = program("time.sleep(600)")
    channel.send(b"x" * 10_000_000, limit_s=0.1)
    with pytest.raises(MeasurementError, match=r"did not do its part within 0\.1 s"):
        channel.receive(limit_s=LONG)


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 100_000)
    channel = program("while True: print(end='x' * 10_000)")
    with pytest.raises(InputError, match="a line of more than 100000 bytes"):
        channel.receive(limit_s=LONG)
    channel.close()


def test_closing_ends_a_program_that_does_not_end_by_itself() -> None:
    channel = program("print(flush=True); time.sleep(600)")
    channel.receive(limit_s=LONG)
    assert channel.close(0.0)[0] == -9


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(InputError, match="cannot run no-such-program"):
        Channel(["no-such-program"])
