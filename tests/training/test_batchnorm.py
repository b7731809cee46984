import torch
from torch import nn

from hwprune.training import ClassificationTask, TrainConfig, recalibrate_batchnorm, train_batches

from .samples import blob_data, small_net

TASK = ClassificationTask()


def test_statistics_are_the_plain_average_over_the_batches():
    model, data, config = small_net().eval(), blob_data(), TrainConfig(batch_size=16, seed=3)
    model[1].running_mean.fill_(7)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert recalibrate_batchnorm(model, data, TASK, config=config) == 3
    maps = [model[0](batch[0]).transpose(0, 1).flatten(1) for batch in train_batches(data, config, 0)]
    torch.testing.assert_close(model[1].running_mean, torch.stack([m.mean(1) for m in maps]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([m.var(1) for m in maps]).mean(0))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_modes_and_momenta_are_as_before():
    model = small_net()
    model[1].momentum = 0.25
    model[3].eval()
    assert recalibrate_batchnorm(model, blob_data(), TASK, batches=2, config=TrainConfig(batch_size=8)) == 2
    assert model[1].momentum == 0.25
    assert [module.training for module in model] == [True, True, True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_and_the_same_batches_give_the_same():
    model = nn.Sequential(nn.Dropout(0.9), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    seen = []
    for _ in range(2):
        recalibrate_batchnorm(model, blob_data(augment=True), TASK)
        seen.append(model[2].running_mean.clone())
    assert torch.equal(*seen)


def test_without_statistics_there_is_nothing_to_do():
    plain = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(36, 3))
    assert recalibrate_batchnorm(plain, blob_data(), TASK) == 0
