import io
import os
import sys
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from hwprune.errors import DataError, InputError
from hwprune.training import images as images_module
from hwprune.training import load_data

SHAPE = (1, 3, 8, 10)


def picture(value, size=(10, 8)):
    return Image.new("RGB", size, (value, value // 2, 0))


def encoded(value, **options):
    buffer = io.BytesIO()
    picture(value, **options).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, classes=("ant", "bee"), count=5):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(100 * c + i).save(root / name / f"{i}.png")
    return root


def parquet(path, images, labels, names=("image", "label")):
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, (images, labels), strict=True))), path)
    return path


def red(sample):
    """The red value of a normalised picture, as it was drawn."""
    return round(float((sample[0][0, 4, 5] * 0.229 + 0.485) * 255))


class TestFolder:
    def test_split_where_there_is_none(self, tmp_path):
        data = load_data(folder(tmp_path), input_shape=SHAPE)
        assert (len(data.train), len(data.validation), data.classes, data.augment) == (8, 2, 2, True)
        samples = [data.train[i] for i in range(8)] + [data.validation[i] for i in range(2)]
        assert sorted((label, red((image, label))) for image, label in samples) == [
            (c, 100 * c + i) for c in range(2) for i in range(5)
        ]
        assert samples[0][0].shape == (3, 8, 10)
        assert samples[0][0].dtype == torch.float32
        assert data.preprocessing["class_names"] == ["ant", "bee"]
        assert data.preprocessing["mean"] == [0.485, 0.456, 0.406]

    def test_the_split_is_the_seeds(self, tmp_path):
        folder(tmp_path, count=20)
        a, b, c = (
            [red(data.validation[i]) for i in range(len(data.validation))]
            for data in (load_data(str(tmp_path), input_shape=SHAPE, seed=seed) for seed in (1, 1, 2))
        )
        assert a == b != c

    @pytest.mark.parametrize("name", ["val", "validation"])
    def test_split_as_given(self, tmp_path, name):
        folder(tmp_path / "train", count=3)
        folder(tmp_path / name, classes=("bee",), count=2)
        data = load_data(tmp_path, input_shape=SHAPE)
        assert [data.train[i][1] for i in range(6)] == [0, 0, 0, 1, 1, 1]
        assert [data.validation[i][1] for i in range(2)] == [1, 1]  # bee is class 1 in both

    def test_other_files_and_hidden_folders_are_not_images(self, tmp_path):
        folder(tmp_path)
        (tmp_path / "ant" / "notes.txt").write_text("x")
        (tmp_path / ".cache").mkdir()
        assert len(load_data(tmp_path, input_shape=SHAPE).train) == 8

    @pytest.mark.parametrize("damage", ["cut", "text", "empty"])
    @pytest.mark.parametrize("lazy", [False, True])
    def test_an_unreadable_image_is_named(self, tmp_path, damage, lazy, monkeypatch):
        folder(tmp_path)
        broken = tmp_path / "bee" / "3.png"
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(broken)
        content = broken.read_bytes()
        broken.write_bytes({"cut": content[: len(content) // 2], "text": b"not an image", "empty": b""}[damage])
        if lazy:
            monkeypatch.setattr(images_module, "_CACHE_BYTES", 0)

        def read_all():
            data = load_data(tmp_path, input_shape=SHAPE)
            return [part[i] for part in (data.train, data.validation) for i in range(len(part))]

        with pytest.raises(DataError, match=r"bee.3\.png cannot be read as an image") as caught:
            read_all()
        assert caught.value.hint

    def test_lazily_read_images_are_the_same(self, tmp_path, monkeypatch):
        folder(tmp_path)
        eager = load_data(tmp_path, input_shape=SHAPE).train
        monkeypatch.setattr(images_module, "_CACHE_BYTES", 0)
        lazy = load_data(tmp_path, input_shape=SHAPE).train
        assert lazy._cache is None
        assert eager._cache is not None
        assert all(torch.equal(lazy[i][0], eager[i][0]) for i in range(len(eager)))

    def test_bad_layouts(self, tmp_path):
        with pytest.raises(DataError, match="no class folder"):
            load_data(tmp_path, input_shape=SHAPE)
        (tmp_path / "ant").mkdir()
        with pytest.raises(DataError, match=r"ant has no image"):
            load_data(tmp_path, input_shape=SHAPE)
        folder(tmp_path / "train")
        with pytest.raises(DataError, match="one training and one validation folder"):
            load_data(tmp_path, input_shape=SHAPE)
        folder(tmp_path / "val", classes=("ant", "wasp"))
        with pytest.raises(DataError, match="class 'wasp'"):
            load_data(tmp_path, input_shape=SHAPE)
        (tmp_path / "validation").mkdir()
        with pytest.raises(DataError, match="one training and one validation folder"):
            load_data(tmp_path, input_shape=SHAPE)

    def test_one_image_per_class_cannot_be_split(self, tmp_path):
        with pytest.raises(DataError, match="2 samples cannot be split"):
            load_data(folder(tmp_path, count=1), input_shape=SHAPE)


class TestParquet:
    def test_bytes_and_labels(self, tmp_path):
        path = parquet(tmp_path / "d.parquet", [encoded(i) for i in range(10)], [i % 2 for i in range(10)])
        data = load_data(path, input_shape=SHAPE)
        samples = [part[i] for part in (data.train, data.validation) for i in range(len(part))]
        assert sorted((red(sample), sample[1]) for sample in samples) == [(i, i % 2) for i in range(10)]
        assert (len(data.train), data.classes) == (8, 2)

    def test_structs_as_hugging_face_writes_them(self, tmp_path):
        rows = [{"bytes": encoded(i), "path": None} for i in range(4)]
        data = load_data(parquet(tmp_path / "d.parquet", rows, [0, 0, 1, 1]), input_shape=SHAPE)
        assert sorted(red(part[i]) for part in (data.train, data.validation) for i in range(2)) == [0, 1, 2, 3]

    def test_agreement_with_the_folder(self, tmp_path):
        root = folder(tmp_path / "f")
        files = sorted(root.rglob("*.png"))
        path = parquet(tmp_path / "d.parquet", [f.read_bytes() for f in files], [0] * 5 + [1] * 5)
        a, b = load_data(root, input_shape=SHAPE), load_data(path, input_shape=SHAPE)
        assert all(torch.equal(a.train[i][0], b.train[i][0]) for i in range(8))

    @pytest.mark.parametrize("image", [b"junk", None, encoded(3)[:40]])
    def test_an_unreadable_image_is_named_with_its_row(self, tmp_path, image):
        rows = [encoded(i) for i in range(6)]
        rows[4] = image
        path = parquet(tmp_path / "d.parquet", rows, [0, 1] * 3)
        with pytest.raises(DataError, match=r"d\.parquet, row 4 cannot be read as an image"):
            load_data(path, input_shape=SHAPE)

    @pytest.mark.parametrize(
        ("labels", "shown"), [([0, 1, -2, 0], "-2"), ([0, 1, None, 0], "None"), (["a"] * 4, "'a'"), ([0.5] * 4, "0.5")]
    )
    def test_labels_that_are_no_index(self, tmp_path, labels, shown):
        path = parquet(tmp_path / "d.parquet", [encoded(i) for i in range(4)], labels)
        with pytest.raises(DataError, match=rf"row \d has label {shown}") as caught:
            load_data(path, input_shape=SHAPE)
        assert "class index" in caught.value.hint

    def test_other_files(self, tmp_path):
        path = tmp_path / "d.parquet"
        with pytest.raises(DataError, match="no such file"):
            load_data(path, input_shape=SHAPE)
        path.write_bytes(b"PAR1 but not really")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            load_data(path, input_shape=SHAPE)
        parquet(path, [encoded(i) for i in range(4)], [0, 1] * 2)
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            load_data(path, input_shape=SHAPE)
        parquet(path, [b""], [0], names=("img", "label"))
        with pytest.raises(DataError, match="has the columns img, label"):
            load_data(path, input_shape=SHAPE)
        parquet(path, pyarrow.array([], pyarrow.binary()), pyarrow.array([], pyarrow.int64()))
        with pytest.raises(DataError, match="no rows"):
            load_data(path, input_shape=SHAPE)

    def test_without_pyarrow(self, tmp_path, monkeypatch):
        path = parquet(tmp_path / "d.parquet", [encoded(0)], [0])
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError) as caught:
            load_data(path, input_shape=SHAPE)
        assert "hwprune[parquet]" in caught.value.hint


class TestArrays:
    @pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
    def test_8_bit_images(self, tmp_path, layout):
        x = np.random.default_rng(0).integers(0, 256, (10, 8, 10), dtype=np.uint8)
        x = {"NHW": x, "NHWC": x[..., None], "NCHW": x[:, None]}[layout]
        np.savez(tmp_path / "d.npz", x=x, y=np.arange(10) % 2)
        data = load_data(tmp_path / "d.npz", input_shape=(1, 1, 8, 10))
        assert (len(data.train), len(data.validation), data.classes, data.augment) == (8, 2, 2, False)
        found = torch.stack([part[i][0] for part in (data.train, data.validation) for i in range(len(part))])
        expected = torch.from_numpy(x.reshape(10, 1, 8, 10) / np.float32(255) - np.float32(0.5)) / 0.5
        assert sorted(found.flatten(1).sum(1).tolist()) == pytest.approx(sorted(expected.flatten(1).sum(1).tolist()))
        assert data.preprocessing["color"] == "L"

    def test_floats_are_taken_as_they_are(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float64)
        arrays = {"x_train": x[:4], "y_train": [0, 1, 2, 0], "x_val": x[4:], "y_val": [2, 1]}
        np.savez_compressed(tmp_path / "d.npz", **arrays)
        data = load_data(tmp_path / "d.npz", input_shape=(1, 2, 3))
        assert torch.equal(data.train[3][0], torch.from_numpy(x[3]).float())
        assert [int(data.validation[i][1]) for i in range(2)] == [2, 1]
        assert data.classes == 3
        assert data.preprocessing == {"kind": "array"}

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.zeros((4, 2))}, "has the arrays x$"),
            ({"x": np.zeros((4, 2)), "y": [0] * 4, "z": 1}, "has the arrays x, y, z"),
            ({"x": np.zeros((4, 2)), "y": [0] * 4}, r"samples of shape \(2,\), the network's input has \(3, 8, 10\)"),
            ({"x": np.zeros((4, 3, 8, 10)), "y": [0.0] * 4}, "y is float64"),
            ({"x": np.zeros((4, 3, 8, 10)), "y": [[0]] * 4}, "y is int64 of shape"),
            ({"x": np.zeros((4, 3, 8, 10)), "y": [0] * 3}, "3 labels for samples of shape"),
            ({"x": np.zeros((0, 3, 8, 10)), "y": np.zeros(0, int)}, "0 labels"),
            ({"x": np.zeros((4, 3, 8, 10)), "y": [0, 1, -1, 0]}, "label -1 in row 2"),
            ({"x": np.full((4, 3, 8, 10), [[[[np.nan]]]]), "y": [0] * 4}, "NaN or infinity in row 0"),
            ({"x": np.zeros((4, 3, 8, 10), int), "y": [0] * 4}, "x is int64"),
            ({"x": np.zeros((4, 7, 8, 10), np.uint8), "y": [0] * 4}, r"uint8 of shape \(4, 7, 8, 10\)"),
            ({"x": np.array([{}] * 4), "y": [0] * 4}, "holds Python objects"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path, arrays, message):
        np.savez(tmp_path / "d.npz", **arrays)
        with pytest.raises(DataError, match=message) as caught:
            load_data(tmp_path / "d.npz", input_shape=SHAPE)
        assert caught.value.hint

    def test_both_parts_have_one_type(self, tmp_path):
        arrays = {"x_train": np.zeros((2, 3, 8, 10), np.uint8), "x_val": np.zeros((2, 3, 8, 10)), "y_val": [0, 1]}
        np.savez(tmp_path / "d.npz", y_train=[0, 1], **arrays)
        with pytest.raises(DataError, match="differ in type"):
            load_data(tmp_path / "d.npz", input_shape=SHAPE)

    def test_pickles_inside_are_never_run(self, tmp_path):
        fuse = tmp_path / "exploded"

        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(fuse),)

        array = np.empty(4, object)
        array[:] = [Bomb()] * 4
        np.savez(tmp_path / "d.npz", x=array, y=[0] * 4)
        with pytest.raises(DataError, match="nothing was read"):
            load_data(tmp_path / "d.npz", input_shape=SHAPE)
        assert not fuse.exists()

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
    def test_truncated(self, tmp_path, share):
        path = tmp_path / "d.npz"
        np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(4, 3, 8, 10)), y=[0, 1, 0, 1])
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            load_data(path, input_shape=SHAPE)

    def test_a_damaged_member(self, tmp_path):
        path = tmp_path / "d.npz"
        np.savez(path, x=np.zeros((4, 3, 8, 10)), y=[0, 1, 0, 1])
        content = bytearray(path.read_bytes())
        content[500:520] = b"\xff" * 20
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            load_data(path, input_shape=SHAPE)

    def test_a_single_array_is_no_npz(self, tmp_path):
        np.save(tmp_path / "d.npy", np.zeros(3))
        (tmp_path / "d.npy").rename(tmp_path / "d.npz")
        with pytest.raises(DataError, match=r"cannot be read as \.npz"):
            load_data(tmp_path / "d.npz", input_shape=SHAPE)


class TestDigits:
    def test_all_of_them_once(self):
        data = load_data("digits", input_shape=(1, 1, 12, 12))
        assert len(data.train) + len(data.validation) == 1797
        assert (data.classes, data.augment) == (10, False)
        image, label = data.train[0]
        assert image.shape == (1, 12, 12)
        assert -1 <= float(image.min()) < float(image.max()) <= 1
        counts = torch.bincount(torch.tensor([data.validation[i][1] for i in range(len(data.validation))]))
        assert counts.tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
        assert label == 0

    def test_in_colour(self):
        image, _ = load_data("digits", input_shape=(1, 3, 8, 8)).validation[0]
        assert image.shape == (3, 8, 8)

    @pytest.mark.parametrize("shape", [(1, 10), (1, 2, 8, 8), (1, 3, 0, 8), (1, 3, 8, 8, 8), ()])
    def test_shapes_that_are_no_image(self, shape):
        with pytest.raises(InputError, match="is not that of images"):
            load_data("digits", input_shape=shape)


def pair(shape=(3,), train=4, validation=2):
    return tuple(TensorDataset(torch.zeros(n, *shape), torch.zeros(n, dtype=torch.int64)) for n in (train, validation))


class TestOwnDataSets:
    def test_a_pair(self):
        data = load_data(pair(), input_shape=(1, 3))
        assert (len(data.train), len(data.validation), data.classes) == (4, 2, None)

    def test_a_factory_in_a_file(self, tmp_path):
        (tmp_path / "beside.py").write_text("size = 4\n")
        (tmp_path / "data.py").write_text(
            "import torch\nfrom torch.utils.data import TensorDataset\n"
            "def make():\n    from beside import size\n    d = TensorDataset(torch.zeros(size, 3))\n    return d, d\n"
        )
        data = load_data(f"{tmp_path}/data.py:make", input_shape=(1, 3))
        assert len(data.train) == 4
        assert data.preprocessing["kind"] == "user"
        sys.modules.pop("beside")
        sys.path.remove(str(tmp_path))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((1, 2), "training set of .* is a int"),
            (pair(train=0), "training set of .* is empty"),
            (pair(validation=0), "validation set of .* is empty"),
            (pair(shape=(4,)), r"have shape \(4,\), the network's input has \(3,\)"),
            (pair()[:1], "gave a tuple"),
        ],
    )
    def test_pairs_that_do_not_fit(self, given, message):
        with pytest.raises(DataError, match=message) as caught:
            load_data(given, input_shape=(1, 3))
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("def make(): return 3", "gave a int"),
            ("def make(): raise KeyError('root')", "make.. failed: KeyError: 'root'"),
            ("make = 3", "TypeError"),
            ("def mk(): pass", "has no 'make'"),
            ("import nothing_of_that_name", "nothing_of_that_name"),
            (
                "class D:\n def __len__(s): return 1\n def __getitem__(s, i): return 1/0\ndef make(): return D(), D()",
                "first sample",
            ),
        ],
    )
    def test_factories_that_fail(self, tmp_path, code, message):
        (tmp_path / "data.py").write_text(code)
        with pytest.raises(DataError, match=message):
            load_data(f"{tmp_path}/data.py:make", input_shape=(1, 3))

    def test_a_user_error_of_ours_comes_through(self, monkeypatch):
        def make():
            raise DataError("the drive is not mounted", hint="mount it")

        monkeypatch.setitem(sys.modules, "data_of_mine", types.SimpleNamespace(make=make))
        with pytest.raises(DataError, match=r"^the drive is not mounted$"):
            load_data("data_of_mine:make", input_shape=(1, 3))

    def test_nothing_of_that_name(self, tmp_path):
        with pytest.raises(DataError, match="there is no such folder") as caught:
            load_data(tmp_path / "nowhere", input_shape=(1, 3))
        assert "digits" in caught.value.hint
