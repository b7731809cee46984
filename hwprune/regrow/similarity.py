"""How alike the outputs of two networks are, layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torchmetrics.functional.image import structural_similarity_index_measure

from hwprune.errors import InputError

Run = Callable[[nn.Module], object]
"""Runs a model on some batches, forward only: ``lambda model: [model(images) for images, _ in batches]``."""
Maps = dict[str, dict[str, Tensor]]
"""Weight → size, such as ``16x16`` → mean output of the layer, shape (height, width)."""
LEAST = 3  # pixels of a map that has a score
WINDOW = 7


def output_maps(model: nn.Module, names: Iterable[str], run: Run) -> Maps:
    """Mean outputs of convolutions, as images.

    As in the code of Liu & Sheng (arXiv 2511.11675): the output (batch, channels, height, width) is summed over
    channels, divided by its L1 norm sample by sample, and averaged. Outputs of fewer than three rows or columns and
    layers that are no convolutions have no map. Our decisions: the average is over samples; outputs of several sizes
    (other inputs, or a weight used in several places) have a map each.

    Args:
        model: the bare module; run in eval mode without gradients, every module is in its own mode afterwards.
        names: of weights, as in ``model.named_parameters()``.
        run: calls the model; in a distributed training with the same batches in every process.

    Raises:
        InputError: an output is not finite.
    """
    wanted = {id(model.get_parameter(name)): name for name in names}
    sums: dict[str, dict[str, Tensor]] = defaultdict(dict)
    samples: dict[tuple[str, str], int] = defaultdict(int)

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.ndim != 4 or min(output.shape[2:]) < LEAST:
            return
        name, size = wanted[id(module.weight)], f"{output.shape[2]}x{output.shape[3]}"
        summed = output.detach().double().sum(1)
        norms = summed.abs().sum((1, 2), keepdim=True)
        sums[name][size] = sums[name].get(size, 0) + (summed / norms.where(norms != 0, 1.0)).sum(0)
        samples[name, size] += len(output)

    modes = [(module, module.training) for module in model.modules()]
    convolutions = (module for module, _ in modes if isinstance(module, _ConvNd) and id(module.weight) in wanted)
    hooks = [module.register_forward_hook(note) for module in convolutions]
    try:
        model.eval()
        with torch.no_grad():
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    _check(sums)
    return {name: {size: one / samples[name, size] for size, one in maps.items()} for name, maps in sums.items()}


def similarities(
    maps: Mapping[str, Mapping[str, Tensor]], others: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, float]:
    """Structural similarity of two networks' outputs.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004, with a uniform
    window of at most 7 × 7, the largest odd size that fits; both maps are stretched to [0, 1] first.

    Args:
        maps: of one network, see :func:`output_maps`.
        others: of the other.

    Returns:
        Weight → SSIM, from -1 to 1, the lowest of its sizes; weights without a map in both networks are left out.
    """
    return {
        name: min(_ssim(one, others[name][size]) for size, one in sizes.items() if size in others[name])
        for name, sizes in maps.items()
        if sizes.keys() & others.get(name, {}).keys()
    }


def _ssim(one: Tensor, other: Tensor) -> float:
    window = min(WINDOW, *one.shape)
    value = structural_similarity_index_measure(
        _stretched(one)[None, None],
        _stretched(other).to(one.device)[None, None],
        gaussian_kernel=False,
        kernel_size=window - (window % 2 == 0),
        data_range=1.0,
    )
    assert isinstance(value, Tensor)  # tuples are returned where the full image is asked for
    return float(value)


def _stretched(image: Tensor) -> Tensor:
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else torch.zeros_like(image)


def _check(sums: Mapping[str, Mapping[str, Tensor]]) -> None:
    bad = [name for name, maps in sums.items() for one in maps.values() if not bool(one.isfinite().all())]
    if bad:
        raise InputError(
            f"the outputs of {', '.join(bad)} are not finite",
            hint="check that the model and the batches have no NaN or infinite values",
        )
