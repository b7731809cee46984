"""``hwprune`` on a made-up device; run by test_processes.py with the folder of remembered exports, and words."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import fakes

from hwprune.cli import main

if __name__ == "__main__":
    with ExitStack() as stack:
        for patch in fakes.made_up_device(Path(sys.argv[1]), fakes.clock()):
            stack.enter_context(patch)
        sys.exit(main(sys.argv[2:]))
