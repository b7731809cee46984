import math
import sys

import pytest
import torch
from torch import nn

from hwprune.errors import DataError, InputError, ModelError
from hwprune.training import ClassificationTask, evaluate_model, load_task

from .samples import blob_data, small_net


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def batch(labels):
    return torch.zeros(2, 1), torch.tensor(labels)


def test_cross_entropy_by_hand():
    loss = ClassificationTask().loss(Fixed(LOGITS), batch([0, 1]))
    expected = (math.log(math.e**2 + 2) - 2 + math.log(math.e + 2)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_by_hand():
    loss = ClassificationTask(label_smoothing=0.3).loss(Fixed(LOGITS[:1]), (torch.zeros(1, 1), torch.tensor([0])))
    norm = math.log(math.e**2 + 2)
    assert float(loss) == pytest.approx(0.8 * (norm - 2) + 0.2 * norm, rel=1e-6)
    with pytest.raises(InputError, match=r"label_smoothing is 1"):
        ClassificationTask(label_smoothing=1)


def test_accuracy_over_batches_of_different_sizes():
    task = ClassificationTask()
    batches = [batch([0, 2]), (torch.zeros(1, 1), torch.tensor([1]))]
    outputs = iter([LOGITS, LOGITS[:1]])
    assert task.evaluate(lambda _: next(outputs), batches) == pytest.approx(2 / 3)


@pytest.mark.parametrize("output", [torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, 3, 4), [torch.zeros(2)]])
def test_outputs_that_are_no_logits(output):
    with pytest.raises(ModelError, match=r"logits of shape \(N, classes\)"):
        ClassificationTask().loss(Fixed(output), batch([0, 1]))


@pytest.mark.parametrize(("labels", "wrong"), [([0, 3], "3"), ([-1, 0], "-1")])
def test_labels_out_of_range(labels, wrong):
    with pytest.raises(DataError, match=f"label {wrong}, the model has 3 classes"):
        ClassificationTask().loss(Fixed(LOGITS), batch(labels))
    with pytest.raises(DataError, match=f"label {wrong}, the model has 3 classes"):
        ClassificationTask().evaluate(lambda _: LOGITS, [batch(labels)])


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 1), (torch.zeros(2, 1),), {"x": 1}, batch([0.5, 1.0]), batch([[0], [1]])], ids=repr
)
def test_batches_that_are_no_pairs(bad):
    with pytest.raises(DataError) as caught:
        ClassificationTask().loss(Fixed(LOGITS), bad)
    assert caught.value.hint


def test_nothing_to_evaluate():
    with pytest.raises(DataError, match="empty"):
        ClassificationTask().evaluate(lambda x: x, [])


def test_evaluating_changes_neither_mode_nor_statistics():
    model = small_net()
    model.train()
    model[1].eval()
    before = model[1].running_mean.clone()
    first = evaluate_model(model, blob_data(), ClassificationTask())
    assert first == evaluate_model(model, blob_data(), ClassificationTask(), batch_size=5)  # and no dropout
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert torch.equal(model[1].running_mean, before)


FILE = """
from beside_the_task import target
import torch

metric = "mse"
higher_is_better = False

def loss(model, batch):
    return ((model(batch) - target) ** 2).mean()

def evaluate(predict):
    return ((predict(torch.zeros(1, 2)) - target) ** 2).mean()
"""


class TestFile:
    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "beside_the_task.py").write_text("target = 3.0\n")
        yield tmp_path / "task.py"
        sys.modules.pop("beside_the_task", None)
        sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]

    def test_functions_of_the_user(self, path):
        path.write_text(FILE)
        task = load_task(path)
        assert (task.metric, task.higher_is_better) == ("mse", False)
        assert float(task.loss(nn.Identity(), torch.full((1, 2), 1.0))) == 4.0
        assert task.evaluate(lambda x: x + 1, []) == 4.0

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("", "has no function 'loss'"),
            ("def loss(m, b): pass", "has no function 'evaluate'"),
            ("loss = 3\ndef evaluate(p): pass", "has no function 'loss'"),
            ("def loss(", "SyntaxError"),
        ],
    )
    def test_files_that_are_no_task(self, path, code, message):
        path.write_text(code)
        with pytest.raises(InputError, match=message):
            load_task(path)

    def test_no_file(self, path):
        with pytest.raises(InputError, match="no such file") as caught:
            load_task(path)
        assert "evaluate(predict)" in caught.value.hint

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return b.sum() * 0 + [1]", "loss in .* failed: TypeError"),
            ("return 3.0", "loss in .* returned float"),
            ("return b", r"loss in .* returned shape \(2, 2\)"),
        ],
    )
    def test_losses_that_fail(self, path, body, message):
        path.write_text(f"def loss(m, b): {body}\ndef evaluate(p): return 0")
        with pytest.raises(InputError, match=message) as caught:
            load_task(path).loss(nn.Identity(), torch.zeros(2, 2))
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return 1 / 0", "evaluate in .* failed: ZeroDivisionError"),
            ("return None", "evaluate in .* returned a NoneType"),
            ("return 'good'", "evaluate in .* returned a str"),
            ("return float('nan')", "evaluate in .* returned nan"),
        ],
    )
    def test_evaluations_that_fail(self, path, body, message):
        path.write_text(f"def loss(m, b): return b\ndef evaluate(p): {body}")
        with pytest.raises(InputError, match=message):
            load_task(path).evaluate(lambda x: x, [])
