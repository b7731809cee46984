"""Hyperspherical networks, the penalty that separates their weights, and recovery by means."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from hwprune.deploy.export import exported_proto
from hwprune.errors import InputError, ModelError
from hwprune.regrow import (
    Recovery,
    SeparationPenalty,
    SparseMasks,
    hyperspherical,
    layer_counts,
    plain,
    prune_and_recover,
    sparse_plus_rank_one,
)
from hwprune.regrow.rank_one import SparsePlusRankOne


class Net(nn.Module):
    """Convolutions of several kinds; one module called twice, one weight in two layers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.mix = nn.Conv2d(6, 6, 1)
        self.tied = nn.Conv2d(6, 6, 1)
        self.tied.weight = self.mix.weight
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(self.depthwise(x)))
        x = torch.relu(self.tied(torch.relu(self.mix(self.up(x)))))
        return self.fc(x.mean((2, 3)))


LAYERS = ("stem", "depthwise", "up", "mix", "tied", "fc")


def images(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def filters(module: Any) -> list[Tensor]:
    """The weights of every output channel, by the definition of the layer."""
    weight = module.weight.detach()
    if not isinstance(module, nn.ConvTranspose2d):
        return list(weight.flatten(1))
    inputs, outputs = weight.shape[0] // module.groups, weight.shape[1]
    return [
        weight[group * inputs : (group + 1) * inputs, channel].flatten()
        for group in range(module.groups)
        for channel in range(outputs)
    ]


def trained(seed: int = 0, **settings: Any) -> nn.Module:
    """A hyperspherical network after some steps."""
    model = hyperspherical(Net(seed), classifier="fc", **settings)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(images(seed=step)), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()
    return model.eval()


def test_filters_have_norm_one_through_training() -> None:
    dense = Net()
    before = copy.deepcopy(dense.state_dict())
    model = trained()
    for name in LAYERS:
        norms = torch.stack([one.norm() for one in filters(model.get_submodule(name))])
        torch.testing.assert_close(norms, torch.ones_like(norms))
        start = dense.get_submodule(name)
        assert not torch.equal(model.get_submodule(name).parametrizations.weight.original, start.weight)
    assert model.mix.parametrizations.weight.original is model.tied.parametrizations.weight.original
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())  # it was copied


def test_directions_stay_when_the_norm_goes() -> None:
    dense = Net()
    model = hyperspherical(dense, classifier="fc")
    for name in LAYERS:
        pairs = zip(filters(model.get_submodule(name)), filters(dense.get_submodule(name)), strict=True)
        for found, given in pairs:
            torch.testing.assert_close(found, given / given.norm())


@pytest.mark.parametrize("learn", [True, False])
def test_the_cosine_classifier(learn: bool) -> None:
    model = hyperspherical(Net(), classifier="fc", scale=20, learn_scale=learn)
    features = torch.randn(4, 6)
    classes = Net().fc.weight
    expected = [[20 * functional.cosine_similarity(f, c, dim=0).item() for c in classes] for f in features]
    torch.testing.assert_close(model.fc(features), torch.tensor(expected))
    assert model.fc.scale.requires_grad is learn
    after = trained(scale=20, learn_scale=learn).fc.scale.item()
    assert (after != 20) is learn


def test_plain_has_the_same_outputs() -> None:
    model = trained()
    expected = model(images())
    folded = plain(model)
    assert not any(parametrize.is_parametrized(module) for module in folded.modules())
    assert parametrize.is_parametrized(model.stem)  # it was copied
    torch.testing.assert_close(folded(images()), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(images()), expected)
    assert type(folded.stem) is nn.Conv2d
    assert folded.mix.weight is folded.tied.weight


def test_plain_for_the_argmax_is_the_original_architecture() -> None:
    model = trained()
    folded = plain(model, classifier="argmax")
    original = Net(seed=7).eval()
    original.load_state_dict(folded.state_dict())
    logits, cosines = original(images(50)), model(images(50))
    assert torch.equal(logits.argmax(1), cosines.argmax(1))
    factors = logits / cosines
    assert (factors > 0).all()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-3, atol=1e-4)


def pruned(model: nn.Module, density: float = 0.4, means: Any = "filter", **settings: Any) -> Recovery:
    masks = SparseMasks(model, **settings)
    masks.keep_largest_of_each(layer_counts("uniform", masks.shapes, density))
    return prune_and_recover(masks, means)


@pytest.mark.parametrize("means", ["filter", "layer", "none"])
def test_values_after_recovery(means: Any) -> None:
    model = Net()
    before = copy.deepcopy(model)
    recovery = pruned(model, means=means)
    for name in ("stem", "depthwise", "up", "mix", "fc"):
        mask = recovery.masks[f"{name}.weight"]
        layer, old = model.get_submodule(name), copy.deepcopy(before.get_submodule(name))
        values = filters(old)
        old.weight = nn.Parameter(mask.float())
        kept = [one.bool() for one in filters(old)]
        gone = torch.cat([value[~stay] for value, stay in zip(values, kept, strict=True)])
        for found, value, stay, mean in zip(
            filters(layer), values, kept, recovery.means[f"{name}.weight"], strict=True
        ):
            own = value[~stay].mean() if (~stay).any() else torch.zeros(())
            expected = {"filter": own, "layer": gone.mean(), "none": torch.zeros(())}[means]
            torch.testing.assert_close(mean, expected.detach(), rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(found, torch.where(stay, value, mean))
    assert model.tied.weight is model.mix.weight


@pytest.mark.parametrize("means", ["filter", "layer"])
def test_sparse_plus_rank_one_computes_the_same(means: Any) -> None:
    model = Net().eval()
    recovery = pruned(model, means=means)
    split = sparse_plus_rank_one(model, recovery).eval()
    torch.testing.assert_close(split(images()), model(images()), rtol=1e-5, atol=1e-5)
    for name in LAYERS:
        layer = split.get_submodule(name)
        assert isinstance(layer, SparsePlusRankOne)
        mask = recovery.masks["mix.weight" if name == "tied" else f"{name}.weight"]
        assert int(layer.sparse.weight.count_nonzero()) <= int(mask.sum())
    assert not any(isinstance(module, SparsePlusRankOne) for module in model.modules())  # it was copied


CASES = {
    "1d": (nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2), (3, 4, 9)),
    "3d": (nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1)), (2, 2, 4, 5, 6)),
    "reflect": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 7)),
    "same": (nn.Conv2d(3, 5, (3, 5), padding="same"), (2, 3, 6, 7)),
    "unbatched": (nn.Conv2d(4, 8, 3, groups=2), (4, 6, 6)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2), (2, 6, 5, 5)),
    "transposed 1d": (nn.ConvTranspose1d(3, 2, 4, stride=3, padding=1), (2, 3, 7)),
    "tokens": (nn.Linear(5, 7), (2, 3, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_sparse_plus_rank_one_of_every_layer(case: str) -> None:
    layer, shape = CASES[case]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) + 0.3)
    model = nn.Sequential(copy.deepcopy(layer))
    recovery = pruned(model)
    x = torch.randn(shape, generator=generator)
    split = sparse_plus_rank_one(model, recovery)
    assert isinstance(split[0], SparsePlusRankOne)
    torch.testing.assert_close(split(x), model(x), rtol=1e-5, atol=1e-5)
    alone = sparse_plus_rank_one(
        model[0], Recovery(*({"weight": one["0.weight"]} for one in (recovery.masks, recovery.means)))
    )
    torch.testing.assert_close(alone(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_size_of_a_transposed_output_is_passed_on() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2))
    split = sparse_plus_rank_one(layer, pruned(layer))
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(split[0](x, [12, 12]), layer[0](x, [12, 12]), rtol=1e-5, atol=1e-5)


def test_only_residuals_whose_mean_is_not_zero_need_recovery() -> None:
    """Small weights of one sign behind inputs of one sign: pruning to zero shifts every output."""

    def error(offset: float, means: Any) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 8, 3))
        with torch.no_grad():
            small = 0.1 * torch.randn_like(model[0].weight)
            large = torch.rand_like(small) < 0.2
            sums = torch.where(large, 0, small).sum((1, 2, 3), keepdim=True)
            small += offset - sums / (~large).sum((1, 2, 3), keepdim=True)  # every filter's mean is the offset
            model[0].weight.copy_(torch.where(large, 3 * torch.randn_like(small).sign(), small))
        x = torch.rand(4, 4, 9, 9)
        before = model(x).detach()
        masks = SparseMasks(model)
        masks.active["0.weight"] = large
        prune_and_recover(masks, means)
        return (model(x) - before).square().mean().item()

    assert error(0.5, "filter") < 0.01 * error(0.5, "none")
    assert error(0.5, "layer") < 0.05 * error(0.5, "none")
    assert error(0.0, "filter") == pytest.approx(error(0.0, "none"), rel=1e-4)


@pytest.mark.parametrize("form", ["dense", "split"])
def test_export(form: str) -> None:
    model = plain(trained())
    recovery = pruned(model)
    model = model if form == "dense" else sparse_plus_rank_one(model, recovery).eval()
    proto = exported_proto(model, images())
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images().numpy()})[0]
    np.testing.assert_allclose(found, model(images()).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_recovery_is_saved_and_read() -> None:
    model = Net().eval()
    recovery = pruned(model)
    read = Recovery.from_state_dict(recovery.state_dict())
    torch.testing.assert_close(sparse_plus_rank_one(model, read)(images()), model(images()), rtol=1e-5, atol=1e-5)


def test_nothing_to_prune() -> None:
    model = Net()
    with pytest.raises(InputError, match="nothing to prune"):
        prune_and_recover(SparseMasks(model))


def test_unknown_settings() -> None:
    model = Net()
    with pytest.raises(InputError, match="means is 'median'"):
        pruned(model, means="median")
    with pytest.raises(InputError, match="scale is 0"):
        hyperspherical(model, scale=0)
    with pytest.raises(InputError, match="classifier 'stem' is no linear layer"):
        hyperspherical(model, classifier="stem")
    with pytest.raises(InputError, match="classifier is 'softmax'"):
        plain(hyperspherical(model), classifier="softmax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing in the model is hyperspherical"):
        plain(model)
    with pytest.raises(InputError, match="nothing in the model is hyperspherical"):
        SeparationPenalty(model, density=0.5)


def test_values_that_are_not_finite() -> None:
    model = Net()
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.nan
    masks = SparseMasks(model)
    masks.active["fc.weight"][0] = False
    with pytest.raises(InputError, match=r"fc\.weight is not finite"):
        prune_and_recover(masks)
    with pytest.raises(InputError, match="fc not finite"):
        SeparationPenalty(hyperspherical(model), density=0.5).penalty()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x))


def test_layers_that_are_refused() -> None:
    with pytest.raises(ModelError, match=r"head is also weight of tokens, a Embedding"):
        hyperspherical(Tied())
    with pytest.raises(ModelError, match="parametrization"):
        hyperspherical(hyperspherical(Net()))
    with pytest.raises(ModelError, match="parametrization"):
        SparseMasks(hyperspherical(Net()))
    with pytest.raises(ModelError, match="no convolution or linear layer to normalise"):
        hyperspherical(nn.Sequential(nn.Embedding(4, 3)))
    model = Tied()
    with pytest.raises(ModelError, match="Embedding, which is no convolution"):
        sparse_plus_rank_one(model, pruned(model))


def test_layers_that_are_excluded() -> None:
    model = hyperspherical(Net(), exclude=["depthwise", "up"])
    assert torch.equal(model.up.weight, Net().up.weight)
    assert not parametrize.is_parametrized(model.depthwise)
    assert parametrize.is_parametrized(model.fc)
    folded = plain(model.eval())
    recovery = pruned(folded, exclude=["stem"])
    split = sparse_plus_rank_one(folded, recovery)
    assert isinstance(split.stem, nn.Conv2d)
    torch.testing.assert_close(split(images()), folded(images()), rtol=1e-5, atol=1e-5)
