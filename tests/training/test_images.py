import numpy as np
import pytest
import torch
from PIL import Image

from hwprune.training.images import ImageDataset, Preprocessing


class Given:
    def __init__(self, images):
        self.images = images

    def open(self, index):
        return self.images[index].copy()

    def name(self, index):
        return f"image {index}"


def test_an_image_of_the_right_size_is_only_normalised():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    preprocessing = Preprocessing(3, 5, 7, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    dataset = ImageDataset(Given([Image.fromarray(pixels)]), [4], [0], preprocessing)
    tensor, label = dataset[0]
    assert label == 4
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), strict=True)):
        expected = (torch.from_numpy(pixels[..., channel]) / 255 - mean) / std
        torch.testing.assert_close(tensor[channel], expected)


def test_what_sticks_out_is_cut_on_both_sides():
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    pixels = Preprocessing.of((1, 1, 4, 4)).pixels(Image.fromarray(wide))
    assert (pixels == 200).all()


def test_scaling_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    pixels = Preprocessing.of((1, 1, 4, 4)).pixels(Image.fromarray(stripes))
    assert 118 <= pixels.min() <= pixels.max() <= 137


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_every_8_bit_mode(mode):
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    assert (Preprocessing.of((1, 3, 4, 4)).pixels(image) == 255).all()
    assert (Preprocessing.of((1, 1, 4, 4)).pixels(image) == 255).all()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deeper_images_are_refused_rather_than_clipped(mode):
    with pytest.raises(ValueError, match="more than 8 bits"):
        Preprocessing.of((1, 1, 4, 4)).pixels(Image.new(mode, (4, 4)))


def test_the_manifest_says_everything():
    assert Preprocessing.of((7, 3, 24, 32)).to_dict() == {
        "kind": "image",
        "color": "RGB",
        "height": 24,
        "width": 32,
        "resize": "cover, bilinear, centre crop",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
