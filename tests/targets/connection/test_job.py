from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from hwprune.targets import Target
from hwprune.targets.connection.job import Request, in_chunks, request

from .asked import FIXED, visit

TARGET = Target(name="t", threads=2)


def test_an_id_stands_for_everything_that_is_asked() -> None:
    asked = visit("v")
    first = request(asked, TARGET, **FIXED)
    assert request(visit("v"), dataclasses.replace(TARGET, name="other"), **FIXED).id == first.id
    changes = [
        {"rounds": 6}, {"burst": 4}, {"attempts": 1}, {"max_seconds": 1.0}, {"min_clean": 0.5}, {"seed": 1},
        {"instrumented": ()}, {"models": {"dense": b"x", "half": b"y"}},
        {"models": dict(zip(("half", "dense"), asked.models.values(), strict=True))},
    ]  # fmt: skip
    ids = {request(visit("v", **change), TARGET, **FIXED).id for change in changes}
    ids |= {request(asked, TARGET, **{**FIXED, name: b"other"}).id for name in FIXED}
    ids |= {
        request(asked, dataclasses.replace(TARGET, **change), **FIXED).id
        for change in ({"threads": 1}, {"precision": "int8"}, {"runtime": "openvino"})
    }
    assert len(ids | {first.id}) == len(changes) + 2 + 3 + 1
    assert all(one.startswith("v#") for one in ids)
    json.dumps(first.document)


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=8), st.integers(1, 60))
def test_chunks(models: list[list[int]], most: int) -> None:
    """In order, none empty, none larger than the bound unless a single visit is; equal models count once."""
    requests = []
    for index, sizes in enumerate(models):
        contents = {f"model-{size}": bytes(size) for size in sizes}
        requests.append(Request(visit(str(index)), {"id": str(index)}, contents))
    chunks = list(in_chunks(iter(requests), most))
    assert [one for chunk in chunks for one in chunk] == requests
    assert all(chunks)
    sizes = [
        sum({name: len(model) for one in chunk for name, model in one.models.items()}.values()) for chunk in chunks
    ]
    assert all(size <= most or len(chunk) == 1 for size, chunk in zip(sizes, chunks, strict=True))
