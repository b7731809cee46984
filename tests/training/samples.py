"""Small data sets and models for the tests of the training room."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hwprune.training import Data


def blobs(samples=48, classes=3, shape=(1, 6, 6), seed=0):
    """Images whose class is how bright they are: learnable in a few steps."""
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    images = random.normal(labels[:, None, None, None], 0.5, (samples, *shape)).astype(np.float32)
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def blob_data(**changes):
    return Data(**{"train": blobs(48, seed=1), "validation": blobs(21, seed=2), "classes": 3, **changes})


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3)
    )


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
