"""The ``hwprune`` command: verbs, exit statuses, and how errors are shown.

Exit statuses: 0 done and every promise kept; 1 done, but the budget or the accuracy gate is missed (the
result is written); 2 bad input, nothing written; 3 could not finish (the device was too busy to be
measured, or a fault in hwprune); 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any

import typer

from hwprune.cli import bench, compress, demo, export, predict, profile, report, targets, verify
from hwprune.errors import HwpruneError, InfeasibleError, InputError, ParityError

app = typer.Typer(
    help="Compress a network to a budget that its exported engine meets, measured on the device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (demo, targets, profile, predict, compress, export, bench, verify, report):
    app.command(verb.NAME)(verb.command)

# typer brings its own copy of click, or uses the installed one, depending on its version
_ClickException: Any = typer.BadParameter.__mro__[2]
_DISK = {errno.ENOSPC: "the disk is full", errno.EROFS: "the file system is read-only", errno.EDQUOT: "over quota"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: the command line without the program's name; ``sys.argv`` if not given.
            ``--debug`` anywhere in it lets tracebacks through.

    Returns:
        the exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        status = app([word for word in words if word != "--debug"], standalone_mode=False, prog_name="hwprune")
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _show("interrupted", "a compression goes on with the same command and --resume", 130)
    except _ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "hwprune"
        return _show(error.format_message(), f"see {command} --help", 2)
    except HwpruneError as error:
        if debug:
            raise
        missed = isinstance(error, (InfeasibleError, ParityError))
        status = 2 if isinstance(error, InputError) else 1 if missed else 3
        return _show(error.message, error.hint, status)
    except OSError as error:
        if debug:
            raise
        reason = _DISK.get(error.errno or 0, error.strerror or str(error))
        return _show(f"{error.filename or 'output'}: {reason}", "free some space, or write elsewhere with --output", 2)
    except Exception as error:
        if debug:
            raise
        return _show(
            f"unexpected {type(error).__name__}: {error}", "this is a fault in hwprune; --debug shows where", 3
        )
    return int(status or 0)


def _show(message: str, hint: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    return status
