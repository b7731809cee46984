"""One of the processes of a sparse compression; run by test_sparse_resume.py."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import fakes

from hwprune.compression import compress
from hwprune.training import launched

with contextlib.ExitStack() as stack:
    for patch in fakes.made_up_device(Path(sys.argv[2]), fakes.clock()):
        stack.enter_context(patch)
    stack.enter_context(launched())
    compress(fakes.config(Path(sys.argv[1]), **json.loads(sys.argv[3])))
