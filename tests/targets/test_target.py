from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprune.errors import InputError
from hwprune.targets import Target, known_targets, load_target, runtime_for

FAR = {"name": "pi", "connection": "ssh://pi"}


@given(
    st.builds(
        Target,
        name=st.text(min_size=1),
        runtime=st.text(min_size=1),
        precision=st.sampled_from(["fp32", "fp16", "int8"]),
        batch=st.integers(1, 4096),
        threads=st.integers(1, 4096),
        connection=st.sampled_from(["local", "none"]),
    )
    | st.builds(
        Target,
        name=st.text(min_size=1),
        connection=st.sampled_from(["ssh://pi", "ssh://me@pi.local:2222"]),
        python=st.sampled_from([None, "python3.11", "/opt/my env/bin/python"]),
        ssh_config=st.sampled_from([None, "ssh_config"]),
    )
)
def test_a_target_survives_its_document(target: Target) -> None:
    assert Target.from_dict(target.to_dict(), source="x") == target


def test_defaults() -> None:
    document = {"name": "pi", "threads": 4}
    assert Target.from_dict(document, source="pi.toml") == Target(
        name="pi", runtime="onnxruntime", precision="fp32", batch=1, threads=4, connection="local"
    )


@pytest.mark.parametrize(
    ("document", "message", "hint"),
    [
        ({"name": "pi", "thread": 4}, "pi.toml: unknown key 'thread'", "did you mean 'threads'?"),
        ({"name": "pi", "colour": 4}, "pi.toml: unknown key 'colour'", "allowed keys: name, runtime, precision, batch"),
        ({"threads": 4}, "pi.toml: the target has no name", "allowed keys"),
        ({"name": ""}, "pi.toml: target name must be text, is ''", "name ="),
        ({"name": 3}, "pi.toml: target name must be text, is 3", "name ="),
        ({"name": "pi", "threads": 0}, "pi.toml: target threads is 0", "whole number from 1"),
        ({"name": "pi", "threads": True}, "pi.toml: target threads is True", "whole number from 1"),
        ({"name": "pi", "threads": 2.0}, "pi.toml: target threads is 2.0", "whole number from 1"),
        ({"name": "pi", "batch": "1"}, "pi.toml: target batch is '1'", "whole number from 1"),
        ({"name": "pi", "batch": 10**9}, "pi.toml: target batch is 1000000000", "to 4096"),
        ({"name": "pi", "precision": "fp64"}, "pi.toml: target precision is 'fp64'", "allowed: fp32, fp16, int8"),
        ({"name": "pi", "connection": "wifi"}, "pi.toml: target connection is 'wifi'", "allowed: local, none, ssh://"),
        ({"name": "pi", "connection": "ssh://-x"}, "pi.toml: 'ssh://-x' is no ssh address", "ssh://[user@]host[:port]"),
        ({"name": "pi", "connection": "ssh://p:70000"}, "pi.toml: 'ssh://p:70000' names port 70000", "1 to 65535"),
        ({"name": "pi", "python": "python3"}, "pi.toml: target python is given, and connection is 'local'", "leave"),
        ({**FAR, "python": "-c evil"}, "pi.toml: target python is '-c evil'", 'not beginning with "-"'),
        ({**FAR, "python": "a\nb"}, "pi.toml: target python is 'a\\nb'", "python ="),
        ({**FAR, "python": 3}, "pi.toml: target python is 3", "python ="),
        ({**FAR, "ssh_config": ""}, "pi.toml: target ssh_config is ''", "ssh_config ="),
        (["name"], "pi.toml: a target must be a table of keys, is ['name']", "allowed keys"),
    ],
)
def test_strict_reading(document: Any, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        Target.from_dict(document, source="pi.toml")
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_known_targets_are_this_machine() -> None:
    known = known_targets()
    assert list(known) == [
        f"local-{runtime}"
        for runtime in (
            *("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"),
            *("openvino", "torch", "torch-cuda", "ncnn", "tensorrt"),
        )
    ]
    for name, target in known.items():
        assert target == Target(name=name, runtime=name.split("-", 1)[1])
        assert load_target(name) == target
        assert runtime_for(target).name == target.runtime


def test_settings_replace_the_targets_own() -> None:
    target = Target(name="pi", threads=4, batch=8)
    assert load_target(target) == target
    assert load_target(target, threads=2, precision="int8") == Target(name="pi", threads=2, batch=8, precision="int8")
    assert load_target("local-onnxruntime", batch=3).batch == 3
    with pytest.raises(InputError, match="target threads is 0"):
        load_target(target, threads=0)


def test_an_unknown_name_lists_those_known() -> None:
    with pytest.raises(InputError, match="unknown target 'local-onxruntime'") as caught:
        load_target("local-onxruntime")
    assert caught.value.hint.startswith("did you mean 'local-onnxruntime'? known targets: local-onnxruntime")
    with pytest.raises(InputError) as caught:
        load_target("jetson")
    assert caught.value.hint.startswith("known targets: local-onnxruntime")


def test_a_target_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pi.toml"
    path.write_text('name = "pi"\nthreads = 4\nconnection = "none"\n')
    target = Target(name="pi", threads=4, connection="none")
    assert load_target(path) == load_target(str(path)) == target
    assert load_target(path, threads=1).threads == 1


@pytest.mark.parametrize("content", [None, b"name = ", b"\xff\xfe", b'name = "a"\nname = "b"', b"[x]\nname = 1"])
def test_a_file_that_is_no_target(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pi.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_target(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_runtime_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="target 'jet' has unknown runtime 'abacus'") as caught:
        runtime_for(Target(name="jet", runtime="abacus"))
    assert caught.value.hint.startswith("runtimes: onnxruntime, onnxruntime-cuda, ")
