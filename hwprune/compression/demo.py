"""The demonstration: handwritten digits, a small residual network, this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from hwprune.compression.config import CompressConfig
from hwprune.compression.folder import RunFolder, cannot_write
from hwprune.compression.pipeline import Run, compress
from hwprune.compression.progress import Progress
from hwprune.network import load_model
from hwprune.training import ClassificationTask, Hooks, TrainConfig, load_data, save_weights, train

MODEL, DATA, INPUT_SHAPE = "zoo:digits_resnet", "digits", (1, 1, 32, 32)


def demo(output: Path, *, latency: str = "0.5x", seed: int = 0, progress: Progress | None = None) -> Run:
    """Train a network from scratch on scikit-learn's digits, and compress it for this machine.

    Args:
        output: folder for the dense weights and the run; one that was interrupted is continued.
        latency: budget, such as ``0.5x``.
        seed: of everything random.
        progress: where to say what is going on.

    Raises:
        InputError: the folder holds something else, or the budget is malformed or out of reach.
        MeasurementError: the device was too busy.
    """
    progress = progress or Progress(quiet=True)
    weights, folder = output / "dense.safetensors", output / "run"
    if (folder / "run.json").exists():
        progress.say(f"continuing the demo in {output}")
    elif not weights.exists():
        RunFolder.check_free(output)
    config = CompressConfig(
        model=MODEL,
        weights=weights,
        input_shape=INPUT_SHAPE,
        data=DATA,
        output=folder,
        latency=latency,
        prune_steps=8,
        prune_epochs=1,
        epochs=3,
        batch_size=32,
        optimizer="adamw",
        learning_rate=0.001,
        weight_decay=5e-4,
        distill=0.5,
        accelerator="cpu",
        seed=seed,
    )
    _ = config.budget  # refuse a malformed one before training
    if not weights.exists():
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(output, error) from error
        _train(weights, seed, progress)
    return compress(config, resume=(folder / "run.json").exists(), progress=progress)


def _train(weights: Path, seed: int, progress: Progress) -> None:
    torch.manual_seed(seed)
    model = load_model(MODEL)
    data = load_data(DATA, input_shape=INPUT_SHAPE, seed=seed)
    settings = TrainConfig(
        epochs=3,
        batch_size=32,
        optimizer="adamw",
        learning_rate=0.003,
        warmup=0.3,
        weight_decay=5e-4,
        accelerator="cpu",
        seed=seed,
    )
    with progress.bar("training the dense network") as advance:
        hooks = Hooks(on_progress=lambda p: advance(p.step, p.steps, f"loss {p.loss:.3f}"))
        train(model, data, ClassificationTask(), settings, hooks=hooks)
    try:
        save_weights(weights, model)
    except OSError as error:
        raise cannot_write(weights, error) from error
