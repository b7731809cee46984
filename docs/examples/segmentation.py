"""A task of one's own: binary segmentation with a small U-Net.

Everything that hwprune needs is here: the model (``build``), the data sets (``data``), and the task
(``loss`` and ``evaluate``)::

    hwprune compress --model segmentation.py:build --data segmentation.py:data --task segmentation.py \
        --input-shape 1,1,64,64 --latency 0.6x --output run
"""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

metric = "IoU"


def stage(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    def __init__(self, widths=(32, 64, 128)):
        super().__init__()
        small, middle, large = widths
        self.down1, self.down2, self.bottom = stage(1, small), stage(small, middle), stage(middle, large)
        self.grow2, self.up2 = nn.ConvTranspose2d(large, middle, 2, stride=2), stage(2 * middle, middle)
        self.grow1, self.up1 = nn.ConvTranspose2d(middle, small, 2, stride=2), stage(2 * small, small)
        self.head = nn.Conv2d(small, 1, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.bottom(functional.max_pool2d(second, 2))
        x = self.up2(torch.cat([self.grow2(x), second], dim=1))
        x = self.up1(torch.cat([self.grow1(x), first], dim=1))
        return self.head(x)


def build():
    return UNet()


def discs(count, seed):
    """Noisy images of one bright disc each, and the disc's mask."""
    generator = torch.Generator().manual_seed(seed)
    centre = 16 + 32 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 6 + 10 * torch.rand(count, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    mask = (((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt() < radius).float()
    image = mask + 0.5 * torch.randn(count, 64, 64, generator=generator)
    return TensorDataset(image[:, None], mask[:, None])


def data():
    return discs(256, seed=0), discs(64, seed=1)


def loss(model, batch):
    images, masks = batch
    return functional.binary_cross_entropy_with_logits(model(images), masks)


def evaluate(predict):
    intersection = union = 0.0
    for images, masks in DataLoader(data()[1], batch_size=16):
        found, wanted = predict(images) > 0, masks > 0.5
        intersection += float((found & wanted).sum())
        union += float((found | wanted).sum())
    return intersection / union
