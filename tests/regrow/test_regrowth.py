"""What regrowth goes by, against the definitions written out slowly: LAMP, saliency, similarity, allocation."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwprune.errors import InputError
from hwprune.regrow.lamp import lamp_scores
from hwprune.regrow.regrowth import Regrowth
from hwprune.regrow.similarity import output_maps, similarities

from .test_bidirectional import WEIGHTS, Run, Small, batches, reference, run


def slow_lamp(weight: Tensor) -> list[float]:
    """By the definition: the square over the sum of all squares no smaller; of equal ones the first is larger."""
    values = [float(value) ** 2 for value in weight.flatten()]
    scores = []
    for place, value in enumerate(values):
        larger = sum(v for p, v in enumerate(values) if v > value or (v == value and p <= place))
        scores.append(value / larger if larger else 0.0)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_lamp_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, 2, generator=generator).round(decimals=1)  # with ties and zeros
    weight[1] = 0
    scores = lamp_scores(weight)
    assert scores.flatten().tolist() == pytest.approx(slow_lamp(weight), rel=1e-12)
    assert float(scores.max()) == 1
    assert int((scores == 1).sum()) == 1
    assert not lamp_scores(torch.zeros(3, 3)).any()


def test_lamp_keeps_the_best_of_all_layers() -> None:
    test = Run(density=0.2)
    scores = {name: slow_lamp(test.model.get_parameter(name).detach()) for name in WEIGHTS}
    test.pruner.advance()
    total = sum(len(one) for one in scores.values())
    ranked = sorted(((score, name, place) for name, one in scores.items() for place, score in enumerate(one)))
    expected = {(name, place) for _, name, place in ranked[-int(total * 0.2) :]}
    active = test.pruner.masks.active
    found = {(name, int(place)) for name, mask in active.items() for place in mask.flatten().nonzero()}
    assert found == expected
    for name, mask in active.items():
        parameter = test.model.get_parameter(name)
        assert not parameter[~mask].any()
        assert mask.any()


def test_saliency_is_the_mean_squared_batch_gradient_times_the_squared_weight() -> None:
    model = Small()
    found = reference(model).saliency()
    expected = dict.fromkeys(WEIGHTS, torch.zeros(()))
    for images, labels in batches(3, seed=9):
        loss = functional.cross_entropy(model(images), labels)
        for name, one in zip(
            WEIGHTS, torch.autograd.grad(loss, [model.get_parameter(n) for n in WEIGHTS]), strict=True
        ):
            expected[name] = expected[name] + one**2 / 3
    for name in WEIGHTS:
        torch.testing.assert_close(found[name], expected[name] * model.get_parameter(name).detach() ** 2)


def slow_ssim(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    window = min(7, *one.shape)
    window -= window % 2 == 0
    margin = window // 2
    images = [
        np.pad((image - image.min()) / (image.max() - image.min()), margin, mode="reflect") for image in (one, other)
    ]
    values = []
    for row, column in itertools.product(*(range(size) for size in one.shape)):
        a, b = (image[row : row + window, column : column + window] for image in images)
        covariance = (a * b).mean() - a.mean() * b.mean()
        upper = (2 * a.mean() * b.mean() + 0.01**2) * (2 * covariance + 0.03**2)
        values.append(upper / ((a.mean() ** 2 + b.mean() ** 2 + 0.01**2) * (a.var() + b.var() + 0.03**2)))
    return float(np.mean(values))


def test_similarity_of_outputs() -> None:
    model, other = Small(0).eval(), Small(1).eval()

    def outputs(of: nn.Module, part: str) -> np.ndarray[Any, Any]:
        seen = []
        hook = of.get_submodule(part).register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
        run(of)
        hook.remove()
        images = torch.cat(seen).sum(1)
        return np.asarray((images / images.abs().sum((1, 2), keepdim=True)).mean(0).double())

    found = similarities(output_maps(model, WEIGHTS, run), output_maps(other, WEIGHTS, run))
    assert set(found) == {"stem.weight", "grouped.weight", "up.weight"}  # the others have no maps of three pixels
    for part in ("stem", "up"):
        assert found[f"{part}.weight"] == pytest.approx(slow_ssim(outputs(model, part), outputs(other, part)), abs=1e-4)
    same = similarities(output_maps(model, WEIGHTS, run), output_maps(model, WEIGHTS, run))
    assert list(same.values()) == pytest.approx([1.0] * 3, abs=1e-6)


def test_looking_at_outputs_leaves_the_model_as_it_was() -> None:
    model = Small().train()
    model.stem.eval()
    before = copy.deepcopy(model.state_dict())
    output_maps(model, WEIGHTS, run)
    assert (model.training, model.stem.training, model.norm.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.stem._forward_hooks


def random_case(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (2, 2, 3, 3), "c": (5, 7), "d": (6, 2)}
    active = {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()}
    saliency = {name: torch.rand(shape, generator=generator).round(decimals=1) for name, shape in shapes.items()}
    return active, saliency, {"a": 0.9, "b": 0.2, "c": 0.6}


def slow_counts(kind: str, count: int, room: dict[str, int], similarity: dict[str, float]) -> dict[str, int]:
    need = {name: 1 - similarity.get(name, 1.0) for name in room}
    given = dict.fromkeys(room, 0)
    if kind == "proportional":
        given = {name: min(room[name], int(count * need[name] / sum(need.values()) + 1e-9)) for name in room}
    for name in sorted(room, key=lambda name: -need[name]):
        while sum(given.values()) < count and given[name] < room[name]:
            given[name] += 1
    return given


@pytest.mark.parametrize("kind", ["proportional", "greedy", "global"])
@pytest.mark.parametrize("seed", range(3))
def test_who_comes_back(kind: Any, seed: int) -> None:
    active, saliency, similarity = random_case(seed)
    regrowth = Regrowth(active, saliency, kind, similarity)
    pruned = [(name, int(place)) for name, mask in active.items() for place in (~mask).flatten().nonzero()]
    ranked = sorted(pruned, key=lambda one: -float(saliency[one[0]].flatten()[one[1]]))  # stable: the first wins
    room = {name: int((~mask).sum()) for name, mask in active.items()}
    assert regrowth.most == len(pruned)
    for count in range(len(pruned) + 1):
        if kind == "global":
            expected = set(ranked[:count])
        else:
            counts = slow_counts(kind, count, room, similarity)
            expected = {one for name in room for one in [r for r in ranked if r[0] == name][: counts[name]]}
        grown = regrowth.masks(count)
        found = {
            (name, int(place)) for name, mask in grown.items() for place in (mask & ~active[name]).flatten().nonzero()
        }
        assert found == expected
        assert len(found) == count
        assert all(bool((grown[name] & mask == mask).all()) for name, mask in active.items())


def test_masks_of_any_memory_format() -> None:
    active, saliency, similarity = random_case(0)
    plain = Regrowth(active, saliency, "greedy", similarity).masks(9)
    active["b"] = active["b"].contiguous(memory_format=torch.channels_last)
    last = Regrowth(active, saliency, "greedy", similarity).masks(9)
    assert all(torch.equal(mask, last[name]) for name, mask in plain.items())


def test_similarity_that_no_layer_has() -> None:
    active, saliency, _ = random_case(0)
    with pytest.raises(InputError, match="no layer has"):
        Regrowth(active, saliency, "proportional", {})
