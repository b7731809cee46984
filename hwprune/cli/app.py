"""The ``hwprune`` command: verbs, exit statuses, and how errors are shown.

Exit statuses: 0 done and every promise kept; 1 done, but the budget or the accuracy gate is missed (compress writes the
result, export does only with --force); 2 bad input, nothing written; 3 could not finish (the device was too busy to be
measured, or a fault in hwprune); 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from hwprune.cli import bench, compress, demo, export, inspect, predict, profile, report, solve, targets, verify
from hwprune.cli.output import results_alone
from hwprune.errors import ElsewhereError, HwpruneError, InfeasibleError, InputError, ParityError

_ON_INTERRUPT = {
    "compress": "the same command with --resume goes on from there, if the run had begun",
    "demo": "the same command goes on from there",
}
_DISK = {errno.ENOSPC: "the disk is full", errno.EROFS: "the file system is read-only", errno.EDQUOT: "over quota"}

# typer brings its own copy of click, or uses the installed one, depending on its version
_ClickException: Any = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        from hwprune import __version__

        print(f"hwprune {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compress a network to a budget that its exported engine meets, measured on the device."""


def _verb(command: Callable[..., int]) -> Callable[..., int]:
    """A verb with its results alone on stdout; typer would swallow a Ctrl-C, so it leaves as an Abort."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> int:
        try:
            with results_alone():
                return command(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Abort from None

    return run


app = typer.Typer(
    callback=_root,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (demo, targets, inspect, profile, predict, compress, export, bench, verify, solve, report):
    app.command(verb.NAME)(_verb(verb.command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: the command line without the program's name; ``sys.argv`` if not given.
            ``--debug`` anywhere in it lets tracebacks through. Without any word it shows the help.

    Returns:
        the exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        verb_line = [word for word in words if word != "--debug"] or ["--help"]
        status = app(verb_line, standalone_mode=False, prog_name="hwprune")
    except typer.Exit as error:
        return _interrupted(words) if error.exit_code == 130 else error.exit_code  # typer's own for a Ctrl-C
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(words)
    except _ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "hwprune"
        return _show(error.format_message(), f"see {command} --help", 2)
    except Exception as error:
        if debug:
            raise
        return _report(error)
    return int(status or 0)


def _report(error: Exception) -> int:
    if isinstance(error, ElsewhereError):
        return _status(error.error)  # the process that failed says why
    if isinstance(error, HwpruneError):
        return _show(error.message, error.hint, _status(error))
    if isinstance(error, OSError):
        reason = _DISK.get(error.errno or 0)
        hint = "free some space, or write elsewhere" if reason else "check the path and its permissions"
        return _show(f"{error.filename or 'output'}: {reason or error.strerror or error}", hint, _status(error))
    return _show(
        f"unexpected {type(error).__name__}: {error}",
        "this is a fault in hwprune; --debug shows where",
        _status(error),
    )


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, InputError | OSError):
        return 2
    return 1 if isinstance(error, InfeasibleError | ParityError) else 3


def _interrupted(words: Sequence[str]) -> int:
    verb = next((word for word in words if not word.startswith("-")), "")
    return _show("interrupted", _ON_INTERRUPT.get(verb, "nothing was written"), 130)


def _show(message: str, hint: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    return status
