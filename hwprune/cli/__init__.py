"""The command line: one verb per file, each a thin layer over the Python API."""

from hwprune.cli.app import main as main

__all__ = ["main"]
