"""One training with a worker process and one without; run by test_loop.py, in a process that has started no threads.

A process in which other tests have started the threads of runtimes must not be forked: once it was ended by SIGSEGV.
"""

from __future__ import annotations

from samples import blob_data, equal_states, small_net

from hwprune.training import ClassificationTask, TrainConfig, train

models = [small_net(), small_net()]
for model, workers in zip(models, (0, 1), strict=True):
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.05, accelerator="cpu", num_workers=workers)
    train(model, blob_data(augment=True), ClassificationTask(), config)
assert not equal_states(models[0], small_net())
assert equal_states(*models)
