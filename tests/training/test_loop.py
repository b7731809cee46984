import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwprune.errors import DataError, InputError, ModelError
from hwprune.training import (
    ClassificationTask,
    Hooks,
    TrainConfig,
    TrainState,
    load_checkpoint,
    save_checkpoint,
    train,
)

from .samples import blob_data, blobs, equal_states, small_net

TASK = ClassificationTask()


def config(**changes):
    return TrainConfig(**{"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "accelerator": "cpu", **changes})


class Stop(Exception):
    pass


def test_it_learns():
    model = small_net()
    state = train(model, blob_data(), TASK, config(epochs=8))
    assert [record["epoch"] for record in state.history] == list(range(1, 9))
    assert state.history[-1]["loss"] < 0.5 * state.history[0]["loss"]
    assert state.history[-1]["metric"] > 0.8


@pytest.mark.parametrize("stop_after", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01, "warmup": 0.5},
        {"schedule": "constant", "grad_clip": 0.5},
        {"precision": "bf16-mixed"},
        {"distill_weight": 0.5},
    ],
    ids=str,
)
def test_resuming_equals_never_stopping_bit_for_bit(tmp_path, stop_after, changes):
    settings, data = config(**changes), blob_data(augment=True)
    whole, teacher = small_net(), small_net(9)
    expected = train(whole, data, TASK, settings, teacher=teacher)

    def stop(state):
        save_checkpoint(tmp_path / "c", state.to_tree())
        if state.epoch == stop_after:
            raise Stop

    with pytest.raises(Stop):
        train(small_net(), data, TASK, settings, teacher=teacher, hooks=Hooks(on_epoch=stop))
    resumed = small_net(seed=5)  # other weights: what counts is in the checkpoint
    torch.rand(7)  # whatever happened to the random generators meanwhile
    start = TrainState.from_tree(load_checkpoint(tmp_path / "c"))
    state = train(resumed, data, TASK, settings, teacher=teacher, start=start)
    assert equal_states(resumed, whole)
    assert state.history == expected.history
    moments = [entry.optimizer["state"][0] for entry in (state, expected)]
    assert all(torch.equal(moments[0][key], moments[1][key]) for key in moments[1])


def test_the_seed_matters():
    models = [small_net(), small_net()]
    for model, seed in zip(models, (0, 1), strict=True):
        train(model, blob_data(), TASK, config(epochs=1, seed=seed))
    assert not equal_states(*models)


def test_worker_processes_change_nothing():
    alone = Path(__file__).parent / "workers_alone.py"
    ended = subprocess.run([sys.executable, alone], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_global_random_generators_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(small_net_without_seeding(), blob_data(), TASK, config(epochs=1))
    assert torch.equal(torch.rand(2), expected)


def small_net_without_seeding():
    with torch.random.fork_rng(devices=[]):
        return small_net()


def test_one_step_of_sgd_by_hand():
    data = blob_data(train=blobs(6), augment=False)
    model, by_hand = (nn.Sequential(nn.Flatten(), nn.Linear(36, 3)) for _ in range(2))
    by_hand.load_state_dict(model.state_dict())
    train(model, data, TASK, config(epochs=1, batch_size=6, learning_rate=0.1, weight_decay=0.3))
    inputs, labels = data.train.tensors
    functional.cross_entropy(by_hand(inputs), labels).backward()
    weight, bias = by_hand[1].weight, by_hand[1].bias
    gradient = weight.grad + 0.3 * weight.detach()
    torch.testing.assert_close(model[1].weight, weight - 0.1 * 1.9 * gradient)  # Nesterov's first step is (1 + 0.9) g
    torch.testing.assert_close(model[1].bias, bias - 0.1 * 1.9 * bias.grad)  # biases do not decay


def test_hooks_see_the_bare_model_with_its_gradients():
    model, seen, epochs = small_net(), [], []

    def on_step(inner, optimizer):
        assert inner is model
        assert {p for group in optimizer.param_groups for p in group["params"]} == set(inner.parameters())
        seen.append(all(parameter.grad is not None for parameter in inner.parameters()))

    progress = []
    hooks = Hooks(on_step, lambda state: epochs.append(state.epoch), progress.append)
    train(model, blob_data(), TASK, config(epochs=2), hooks=hooks)
    assert seen == [True] * 12
    assert epochs == [1, 2]
    assert [(p.step, p.steps) for p in progress] == [(i, 12) for i in range(1, 13)]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_on_step_writes_into_the_weights_stays():
    def zero_first_filter(inner, optimizer):
        with torch.no_grad():
            inner[0].weight[0] = 0

    model = small_net()
    state = train(model, blob_data(), TASK, config(epochs=1), hooks=Hooks(on_step=zero_first_filter))
    assert not model[0].weight[0].any()
    assert not state.model["0.weight"][0].any()


def test_on_start_comes_before_the_first_step_and_after_what_is_restored():
    model, seen = small_net(), []

    def on_start(inner, optimizer):
        seen.append((inner is model, inner[0].weight.detach().clone(), len(optimizer.state)))
        with torch.no_grad():
            inner[0].weight[0] = 0

    before = model[0].weight.detach().clone()
    state = train(model, blob_data(), TASK, config(epochs=0), hooks=Hooks(on_start=on_start))
    assert not state.model["0.weight"][0].any()  # what it changes is part of the state
    state = train(model, blob_data(), TASK, config(epochs=1))
    train(small_net(), blob_data(), TASK, config(epochs=1), hooks=Hooks(on_start=on_start), start=state)
    assert [(bare, bool(remembered)) for bare, _, remembered in seen] == [(True, False), (False, True)]
    assert torch.equal(seen[0][1], before)
    assert torch.equal(seen[1][1], state.model["0.weight"])


def test_states_are_copies():
    states, model = [], small_net()
    train(model, blob_data(), TASK, config(epochs=2), hooks=Hooks(on_epoch=states.append))
    assert not torch.equal(states[0].model["0.weight"], states[1].model["0.weight"])
    before = states[1].model["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(states[1].model["0.weight"], before)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_are_as_before(mode):
    model = small_net().train(mode)
    train(model, blob_data(), TASK, config(epochs=1))
    assert all(module.training is mode for module in model.modules())


def test_frozen_parameters_stay():
    model = small_net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(model, blob_data(), TASK, config(epochs=1))
    assert torch.equal(model[0].weight, before)
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameter"):
        train(model, blob_data(), TASK, config())


def test_no_epochs_and_no_epochs_left():
    model, other = small_net(), small_net()
    state = train(model, blob_data(), TASK, config(epochs=0))
    assert (state.epoch, state.history) == (0, [])
    assert equal_states(model, other)
    done = train(model, blob_data(), TASK, config(epochs=1))
    again = train(other, blob_data(), TASK, config(epochs=1), start=done)
    assert equal_states(model, other)
    assert again == done


def test_an_incomplete_batch_is_dropped_but_never_everything():
    steps = []
    hooks = Hooks(on_progress=lambda p: steps.append(p.steps))
    train(small_net(), blob_data(train=blobs(13)), TASK, config(epochs=1, batch_size=6), hooks=hooks)
    assert steps == [2, 2]
    steps.clear()
    train(small_net(), blob_data(train=blobs(13)), TASK, config(epochs=1, batch_size=500), hooks=hooks)
    assert steps == [1]


def test_divergence_is_an_error_that_names_the_step():
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+, learning rate") as caught:
        train(small_net(), blob_data(), TASK, config(learning_rate=1e30, epochs=5))
    assert "lower the learning rate" in caught.value.hint


def test_a_state_of_another_model_is_refused():
    state = train(small_net(), blob_data(), TASK, config(epochs=1))
    wider = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    with pytest.raises(InputError, match="the training state of epoch 1 does not fit"):
        train(wider, blob_data(), TASK, config(), start=state)


def test_distillation_follows_the_teacher_and_leaves_it_alone():
    class Silent:  # a task without a loss of its own: all that is learnt comes from the teacher
        metric, higher_is_better = "none", True

        def loss(self, model, batch):
            return 0.0 * model(batch[0]).sum()

        def evaluate(self, predict, batches):
            return 0.0

    data = blob_data()
    teacher = small_net()
    train(teacher, data, TASK, config(epochs=8))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    teacher.train()
    student = small_net(seed=4)
    settings = config(epochs=15, distill_weight=1.0, distill_temperature=2.0)
    train(student, data, Silent(), settings, teacher=teacher)
    assert teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    inputs = data.validation.tensors[0]
    agree = student.eval()(inputs).argmax(1) == teacher.eval()(inputs).argmax(1)
    assert agree.float().mean() > 0.8


def test_distillation_needs_a_teacher_of_the_same_outputs():
    with pytest.raises(InputError, match="no teacher"):
        train(small_net(), blob_data(), TASK, config(distill_weight=0.5))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(ModelError, match=r"\(8, 3\), the teacher \(8, 4\)"):
        train(small_net(), blob_data(), TASK, config(distill_weight=0.5), teacher=teacher)


def test_more_labels_than_outputs():
    with pytest.raises(DataError, match="label 4, the model has 3 classes"):
        train(small_net(), blob_data(train=blobs(20, classes=5)), TASK, config(batch_size=20))


def test_an_accelerator_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(InputError, match="accelerator 'cuda' cannot be used"):
        train(small_net(), blob_data(), TASK, config(accelerator="cuda"))
