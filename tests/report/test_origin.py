"""The command that a page gives asks for the run that the page is about."""

import shlex
from pathlib import Path
from unittest import mock

import pytest

from hwprune import cli, compression
from hwprune.compression.config import CompressConfig
from hwprune.report.origin import compress_command

CONFIGS = {
    "few settings": CompressConfig(
        model="zoo:x", input_shape=(1, 3, 8, 8), data="digits", output=Path("a run"), macs="1k"
    ),
    "a way of its own": CompressConfig(
        model="models.py:f",
        input_shape="ids=1,128:int64<30522;mask=1,128:int64",
        data="my data's folder",
        output=Path("$(rm -rf x)"),
        weights=Path("w.pt"),
        latency="0.5x",
        threads=2,
        method="joint-oneshot",
        weights_in_flash=True,
        stay_dense=("*pos_embed", "fc"),
        sparsify="gmp",
        sparsity="0.9",
        augment=True,
        epochs=0,
        seed=0,
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_command_asks_for_the_same_run(config, capsys):
    command = compress_command(config.resolved())
    program, *words = shlex.split(command.replace("\\\n", ""))
    assert program == "hwprune"
    assert all(len(line) <= 102 for line in command.splitlines())
    asked = []

    def compress(settings, **_):
        asked.append(settings)
        raise InterruptedError

    with mock.patch.object(compression, "compress", compress):
        cli.main(words)
    assert asked == [config], capsys.readouterr()
