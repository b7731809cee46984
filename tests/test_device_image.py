"""A raw image through ``run.py`` gets the class that the torch model gives it behind the training's own pipeline."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import datasets
from torch import nn

from hwprune.deploy import Bundle, export_onnx, write_bundle
from hwprune.device_bundle import main
from hwprune.device_image import prepared, read_image
from hwprune.device_runner import BadInput
from hwprune.targets import load_target
from hwprune.training.digits import load_digits
from hwprune.training.folder import load_folder
from hwprune.training.images import Preprocessing

RANDOM = np.random.default_rng(0)
SIZES = [(1, 1), (1, 7), (2, 3), (8, 8), (17, 64), (64, 17), (33, 33), (100, 31), (224, 224), (301, 500), (640, 97)]
WANTED = [(1, 1), (4, 9), (8, 8), (32, 32), (31, 57), (224, 224)]


def noise(height: int, width: int, channels: int) -> Any:
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_image(pixels: Any) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wanted", WANTED)
def test_every_pixel_is_that_of_training(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    for channels in (1, 3):
        for given in (1, 3):
            preprocessing, pixels = Preprocessing.of((1, channels, *wanted)), noise(*size, given)
            expected = preprocessing.normalise(preprocessing.pixels(as_image(pixels))).numpy()
            found = prepared(pixels, json.loads(json.dumps(preprocessing.to_dict())))
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected)


def test_many_random_sizes() -> None:
    for _ in range(150):
        (height, width), (tall, wide) = RANDOM.integers(1, 90, (2, 2)).tolist()
        preprocessing, pixels = Preprocessing.of((1, 3, tall, wide)), noise(height, width, 3)
        expected = preprocessing.normalise(preprocessing.pixels(as_image(pixels))).numpy()
        np.testing.assert_array_equal(prepared(pixels, preprocessing.to_dict()), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_pictures_need_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    pixels = noise(5, 9, channels)
    path = tmp_path / ("x.ppm" if channels == 3 else "x.pgm")
    as_image(pixels).save(path)
    head, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(head + b"\n# by hand\n" + rest)
    as_image(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", "RGB" if channels == 3 else "L"), pixels)
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    np.testing.assert_array_equal(read_image(path, "L"), pixels)
    with pytest.raises(BadInput, match=r"needs Pillow, which is not installed \(pip install pillow\)"):
        read_image(tmp_path / "x.png", "L")


@pytest.mark.parametrize(
    "content",
    [b"", b"P6\n2 2\n255\n" + bytes(11), b"P6\n0 2\n255\n", b"P5\n1 1\n65535\n\0\0", b"P6\n9999999 9999999\n255\n"],
)
def test_pictures_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ppm").write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.ppm"):
        read_image(tmp_path / "x.ppm", "RGB")


def test_sixteen_bits_are_refused_as_in_training(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(BadInput, match="more than 8 bits"):
        read_image(tmp_path / "x.png", "L")


@pytest.mark.parametrize(
    ("key", "value"),
    [("color", "CMYK"), ("height", "x"), ("width", 0), ("mean", [0.5]), ("std", None), ("scale", 0), ("resize", "fit")],
)
def test_a_preprocessing_that_is_not_known_is_not_guessed(key: str, value: Any) -> None:
    with pytest.raises(BadInput, match="preprocessing"):
        prepared(noise(4, 4, 3), {**Preprocessing.of((1, 3, 4, 4)).to_dict(), key: value})


# -- whole tasks ----------------------------------------------------------------------------------------------


def fitted(data: Any, channels: int, classes: int) -> nn.Module:
    """A small network, trained for a moment."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.LazyLinear(classes))
    loader = torch.utils.data.DataLoader(data.train, batch_size=64, shuffle=True)
    model(next(iter(loader))[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def bundled(path: Path, data: Any, model: nn.Module, batch: int) -> Bundle:
    example = torch.stack([data.validation[i][0] for i in range(batch)])
    engine = export_onnx(model, example, path.with_suffix(".onnx")).path
    known = {"preprocessing": data.preprocessing}
    given = {"engine": engine, "model": model, "example": example, "target": load_target("local-onnxruntime")}
    return write_bundle(path, manifest=known, **given)


def inferred(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["infer", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def classes_of(model: nn.Module, images: list[torch.Tensor]) -> tuple[list[int], list[float]]:
    with torch.no_grad():
        likely = model(torch.stack(images)).softmax(1)
    return likely.argmax(1).tolist(), likely.amax(1).tolist()


def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As raw pixels, all at once, in batches of four."""
    data = load_digits((1, 1, 12, 12), 0)
    model = fitted(data, 1, 10)
    bundle = bundled(tmp_path / "bundle", data, model, 4)
    raw = datasets.load_digits()
    pixels = np.round(raw.images * (255 / 16)).astype(np.uint8)[:601]
    np.savez(tmp_path / "digits.npz", x=pixels, y=raw.target[:601])
    preprocessing = Preprocessing.of((1, 1, 12, 12))
    images = [preprocessing.normalise(preprocessing.pixels(Image.fromarray(one))) for one in pixels]
    expected, scores = classes_of(model, images)
    source, output = str(tmp_path / "digits.npz"), tmp_path / "out.npz"
    document = inferred(capsys, source, "--bundle", str(bundle.path), "--output", str(output))
    assert [one["class"] for one in document["results"]] == expected
    assert [one["name"] for one in document["results"]] == [str(one) for one in expected]
    assert [(one["source"], one["index"]) for one in document["results"]] == [(source, i) for i in range(601)]
    np.testing.assert_allclose([one["score"] for one in document["results"]], scores, rtol=1e-3)
    assert np.mean(np.array(expected) == raw.target[:601]) > 0.9
    with np.load(output) as written, torch.no_grad():
        np.testing.assert_allclose(written["output_0"], model(torch.stack(images)), rtol=1e-3, atol=1e-4)


def paint(folder: Path) -> list[Path]:
    """Colour pictures of many sizes and formats, in folders named by what is strongest in them."""
    paths = []
    for index, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            height, width = RANDOM.integers(9, 70, 2).tolist()
            pixels = noise(height, width, 3) // 2
            pixels[..., 2 - index] += np.uint8(60 + number)
            path = folder / name / f"{number:02}.{('png', 'jpg', 'ppm', 'bmp')[number % 4]}"
            Image.fromarray(pixels).save(path)
            paths.append(path)
    return paths


def test_colour_images_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = paint(tmp_path / "photos")
    data = load_folder(tmp_path / "photos", (1, 3, 24, 20), 0)
    model = fitted(data, 3, 3)
    bundle = bundled(tmp_path / "bundle", data, model, 1)
    preprocessing = Preprocessing.of((1, 3, 24, 20))
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(preprocessing.normalise(preprocessing.pixels(image)))
    expected = classes_of(model, images)[0]
    found = inferred(capsys, *map(str, paths), "--bundle", str(bundle.path))["results"]
    assert [one["class"] for one in found] == expected
    assert [one["name"] for one in found] == [("blue", "green", "red")[one] for one in expected]
    assert min(Counter(expected).values()) > 20


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_digits((1, 1, 8, 8), 0)
    bundle = bundled(tmp_path / "bundle", data, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), 2)
    refused = {
        "five.npy": np.zeros((2, 8, 8, 5), np.uint8),
        "wide.npy": np.zeros((2, 1, 8, 9), np.float32),
        "empty.npy": np.zeros((0, 1, 8, 8), np.float32),
        "complex.npy": np.zeros((1, 1, 8, 8), np.complex64),
        "object.npy": np.array([{}], dtype=object),
    }
    for name, array in refused.items():
        np.save(tmp_path / name, array)
        assert main(["infer", str(tmp_path / name), "--bundle", str(bundle.path)]) == 2
        assert "error: " in capsys.readouterr().err
    np.savez(tmp_path / "two.npz", a=X, b=X)
    for arguments, message in (
        ([str(tmp_path / "two.npz")], "one, or one of them called 'x'"),
        ([str(tmp_path / "absent.png")], "absent.png cannot be read"),
        ([str(tmp_path / "two.npz"), "--output", str(bundle.path / "out.npz")], "inside the bundle"),
    ):
        assert main(["infer", *arguments, "--bundle", str(bundle.path)]) == 2
        assert message in capsys.readouterr().err
    assert main(["info", str(bundle.path)]) == 0


X = np.zeros((1, 1, 8, 8), np.float32)


def test_ready_made_inputs_are_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_digits((1, 1, 8, 8), 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    bundle = bundled(tmp_path / "bundle", data, model, 2)
    images = [data.validation[i][0] for i in range(5)]
    stacked = torch.stack(images).numpy()
    np.save(tmp_path / "a.npy", stacked)
    np.savez(tmp_path / "b.npz", **{bundle.manifest["inputs"][0]["name"]: stacked.astype(np.float64)})
    found = inferred(capsys, str(tmp_path / "a.npy"), str(tmp_path / "b.npz"), "--bundle", str(bundle.path))
    assert [one["class"] for one in found["results"]] == 2 * classes_of(model, images)[0]
