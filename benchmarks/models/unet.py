"""A small U-Net (Ronneberger et al., MICCAI 2015) with concatenation and transposed convolutions."""

import torch
from torch import nn


def double(inputs, outputs):
    """Two convolutions with batch norm, biases left on."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Encoder, decoder, skips."""

    def __init__(self, channels=3, classes=2, widths=(32, 64, 128, 256)):
        super().__init__()
        self.encoder = nn.ModuleList(double(i, o) for i, o in zip((channels, *widths), widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[k], widths[k - 1], 2, 2) for k in (3, 2, 1))
        self.decoder = nn.ModuleList(double(2 * widths[k - 1], widths[k - 1]) for k in (3, 2, 1))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        """Logits per pixel, shape (N, classes, H, W)."""
        skips = []
        for stage in self.encoder[:-1]:
            skips.append(stage(x))
            x = self.pool(skips[-1])
        x = self.encoder[-1](x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = stage(torch.cat([skip, up(x)], 1))
        return self.head(x)


def build():
    """The network with random weights."""
    return UNet()
