import math

import pytest
import torch
from torch import nn

from hwprune.errors import ModelError
from hwprune.training.distill import Distillation, distillation_loss


def test_the_formula_by_hand():
    student, teacher, temperature = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), 2.0
    p = 1 / (1 + math.exp(-1.0))
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-6)


def test_dense_outputs_are_averaged_over_positions():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    flat = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (student, teacher)]
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0), distillation_loss(*flat, 3.0))


def test_the_gradient_at_high_temperature_is_that_of_the_logits():
    # Hinton et al., eq. 4: for large T the gradient is (z − v) / N for zero-mean logits (N classes, one sample)
    student = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.5, -1.0]])
    distillation_loss(student, teacher, 1000.0).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 3, atol=1e-3, rtol=1e-3)


def test_blending():
    student, teacher, x = nn.Linear(2, 3), nn.Linear(2, 3), torch.randn(4, 2)
    with Distillation(student, teacher, weight=0.25, temperature=2.0) as distillation:
        task = student(x).pow(2).mean()
        blended = distillation.blend(task)
        torch.testing.assert_close(blended, 0.75 * task + 0.25 * distillation_loss(student(x), teacher(x), 2.0))
        blended.backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None
    assert not student._forward_hooks


def test_a_loss_that_never_calls_the_model():
    model = nn.Linear(2, 3)
    with Distillation(model, nn.Linear(2, 3), weight=0.5, temperature=1.0) as distillation:
        distillation.blend(model(torch.zeros(1, 2)).sum())
        with pytest.raises(ModelError, match="did not call the model"):
            distillation.blend(torch.tensor(1.0))
