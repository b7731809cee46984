import pytest
import torch

from hwprune.network.zoo import ZOO, digits_resnet


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_zoo_model_can_be_built_and_differentiated(name):
    model = ZOO[name]()
    model(torch.randn(2, 1, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_digits_resnet_halves_the_resolution_twice_and_ends_in_ten_logits():
    model = digits_resnet().eval()
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    assert model(torch.randn(3, 1, 32, 32)).shape == (3, 10)
    assert [size[1] for size in sizes] == [32, 32, 16, 16, 8, 8]
    assert all(size[0] % 32 == 0 for size in sizes)
