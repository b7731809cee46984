"""A residual network for CIFAR-10 that is wide enough to be cut in steps of 16 channels."""

from hwprune.network.zoo import ResNet


def resnet8():
    """Stages of one block with 32, 64 and 128 channels: 49 million multiply-accumulates, 0.3 million parameters."""
    return ResNet(in_channels=3, classes=10, widths=(32, 64, 128), blocks=1)
