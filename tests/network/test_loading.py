import importlib.util
import os
import pickle
import sys
import types

import pytest
import safetensors.torch
import torch
from torch import nn

from hwprune.errors import DataError, ModelError
from hwprune.network.loading import load_model, load_object, load_weights

FACTORY = """
from helper_beside_model import width
from torch import nn

def build():
    return nn.Linear(width, 2)

def number():
    return 7

def broken():
    raise ValueError("no such backbone")

def _hidden():
    pass
"""


@pytest.fixture
def factory_file(tmp_path):
    (tmp_path / "helper_beside_model.py").write_text("width = 5\n")
    path = tmp_path / "my model.py"
    path.write_text(FACTORY)
    yield path
    sys.modules.pop("helper_beside_model", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def randomised(model):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 3)
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class TestModels:
    def test_a_file_that_imports_its_neighbour(self, factory_file):
        assert load_model(f"{factory_file}:build").in_features == 5

    def test_a_file_is_run_once(self, factory_file):
        assert load_object(f"{factory_file}:build") is load_object(f"{factory_file}:build")

    def test_neighbours_hide_nothing_after_loading(self, factory_file):
        before = sys.path[0]
        load_model(f"{factory_file}:build")
        assert sys.path[0] == before
        assert sys.path[-1] == str(factory_file.parent)

    def test_two_files_of_one_name_are_two_modules(self, tmp_path):
        for folder, size in (("a", 3), ("b", 4)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "model.py").write_text(f"from torch import nn\ndef f(): return nn.Linear({size}, 1)\n")
        assert load_model(f"{tmp_path}/a/model.py:f").in_features == 3
        assert load_model(f"{tmp_path}/b/model.py:f").in_features == 4

    def test_a_module_in_a_package(self):
        assert load_model("hwprune.network.zoo:digits_resnet")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)

    def test_the_zoo(self):
        assert load_model("zoo:digits_resnet")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)

    def test_a_module_and_a_function(self):
        model = net()
        assert load_model(model) is model
        assert isinstance(load_model(net), nn.Sequential)

    @pytest.mark.parametrize(
        ("name", "message", "hint"),
        [
            ("buidl", "has no 'buidl'", "did you mean build?"),
            ("zzz", "has no 'zzz'", "broken, build, number"),
            ("number", "returned a int", "torch.nn.Module"),
            ("width", "is a int", "function"),
            ("broken", "ValueError: no such backbone", "mend it there"),
        ],
    )
    def test_bad_factories(self, factory_file, name, message, hint):
        with pytest.raises(ModelError, match=message) as caught:
            load_model(f"{factory_file}:{name}")
        assert hint in caught.value.hint

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("nowhere/model.py:build", "no such file: nowhere/model.py"),
            ("no_such_package.models:build", "no Python module 'no_such_package.models'"),
            ("model.py", "names nothing"),
            (":build", "names nothing"),
            ("zoo:digits_rsnet", "the zoo has no 'digits_rsnet'"),
            ("zoo:", "the zoo has no ''"),
        ],
    )
    def test_bad_names(self, spec, message):
        with pytest.raises(ModelError, match=message) as caught:
            load_model(spec)
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("def f(:\n", "SyntaxError"),
            ("import no_such_library_at_all\n", "no_such_library_at_all"),
            ("open('/no/such/file')\n", "FileNotFoundError"),
            ("raise SystemExit(3)\n", "SystemExit: 3"),
        ],
    )
    def test_files_that_fail_when_run(self, tmp_path, code, message):
        (tmp_path / "model.py").write_text(code)
        for _ in range(2):  # the failed module is not remembered as a good one
            with pytest.raises(ModelError, match=message) as caught:
                load_model(f"{tmp_path}/model.py:f")
            assert "importing" in caught.value.message

    def test_the_error_class_is_the_callers(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            load_object(f"{tmp_path}/data.py:make", error=DataError)

    @pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
    def test_a_library_that_is_missing_is_named(self, library):
        if importlib.util.find_spec(library):
            pytest.skip(f"{library} is installed here")
        with pytest.raises(ModelError) as caught:
            load_model(f"{library}:resnet18")
        assert caught.value.hint == f"pip install {library}"

    def test_model_libraries_are_asked_for_random_weights(self, monkeypatch):
        calls = []

        def make(name, **options):
            calls.append((name, options))
            return net()

        def resnet18(*, weights="downloaded", **options):
            return make("resnet18", weights=weights, **options)

        def fcn(*, weights="downloaded", weights_backbone="downloaded", **options):
            return make("fcn", weights=weights, weights_backbone=weights_backbone, **options)

        builders = {"resnet18": resnet18, "fcn": fcn}
        timm = types.SimpleNamespace(list_models=lambda: ["resnet18"], create_model=make)
        models = types.SimpleNamespace(list_models=lambda: list(builders), get_model_builder=builders.__getitem__)
        vision = types.SimpleNamespace(models=models)
        monkeypatch.setitem(sys.modules, "timm", timm)
        monkeypatch.setitem(sys.modules, "torchvision", vision)
        load_model("timm:resnet18")
        load_model("torchvision:resnet18")
        load_model("torchvision:fcn")
        assert calls == [
            ("resnet18", {"pretrained": False}),
            ("resnet18", {"weights": None}),
            ("fcn", {"weights": None, "weights_backbone": None}),
        ]
        for library in ("timm", "torchvision"):
            with pytest.raises(ModelError) as caught:
                load_model(f"{library}:resnet81")
            assert "resnet18" in caught.value.hint


class TestWeights:
    @pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    def test_what_training_scripts_save(self, tmp_path, wrap, prefix):
        source, target = randomised(net()), net()
        torch.save(wrap({prefix + k: v for k, v in source.state_dict().items()}), tmp_path / "w.pt")
        load_weights(target, tmp_path / "w.pt")
        assert same(source, target)

    def test_safetensors(self, tmp_path):
        source, target = randomised(net()), net()
        safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
        load_weights(target, str(tmp_path / "w.safetensors"))
        assert same(source, target)

    def test_a_model_whose_own_names_begin_with_module(self, tmp_path):
        source, target = (nn.ModuleDict({"module": nn.Linear(2, 2)}) for _ in range(2))
        torch.save(source.state_dict(), tmp_path / "w.pt")
        load_weights(target, tmp_path / "w.pt")
        assert same(source, target)

    def test_tied_tensors_need_be_in_the_file_once(self, tmp_path):
        def tied():
            model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
            model["b"].weight = model["a"].weight
            return model

        source, target = tied(), tied()
        safetensors.torch.save_model(source, str(tmp_path / "w.safetensors"))
        load_weights(target, tmp_path / "w.safetensors")
        assert torch.equal(target["b"].weight, source["a"].weight)

    def test_batch_counters_may_be_missing(self, tmp_path):
        source, target = randomised(net()), net()
        kept = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
        safetensors.torch.save_file(kept, tmp_path / "w.safetensors")
        load_weights(target, tmp_path / "w.safetensors")
        assert torch.equal(target[1].running_var, source[1].running_var)

    def test_every_misfit_is_named_and_the_model_is_left_alone(self, tmp_path):
        state = randomised(net()).state_dict()
        del state["0.bias"]
        state["4.weight"] = torch.zeros(3, 4)
        state["extra"] = torch.zeros(1)
        torch.save(state, tmp_path / "w.pt")
        target = net()
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        with pytest.raises(ModelError) as caught:
            load_weights(target, tmp_path / "w.pt")
        message = caught.value.message
        assert "1 missing: 0.bias" in message
        assert "1 not in the model: extra" in message
        assert "4.weight is 3×4 in the file and 2×4 in the model" in message
        assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_truncated_files(self, tmp_path, suffix, share):
        path = tmp_path / f"w{suffix}"
        save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
        save(net().state_dict(), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ModelError, match="cannot be read as weights") as caught:
            load_weights(net(), path)
        assert "truncated" in caught.value.hint

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
    def test_files_of_something_else(self, tmp_path, suffix):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(b"<html>404 not found</html>" * 40)
        with pytest.raises(ModelError, match="cannot be read as weights"):
            load_weights(net(), path)

    def test_no_file_and_unknown_suffix(self, tmp_path):
        with pytest.raises(ModelError, match="no weight file"):
            load_weights(net(), tmp_path / "w.pt")
        (tmp_path / "w.h5").write_bytes(b"1")
        with pytest.raises(ModelError, match=r"suffix '\.h5'"):
            load_weights(net(), tmp_path / "w.h5")

    @pytest.mark.parametrize("document", [[1, 2], {"state_dict": {"0.weight": 3}}, {"lr": 0.1}, 5])
    def test_files_without_tensors(self, tmp_path, document):
        torch.save(document, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="holds"):
            load_weights(net(), tmp_path / "w.pt")


class Bomb:
    """Unpickling this creates a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("legacy", ["zip", "legacy", "plain pickle"])
def test_pickled_code_is_refused_and_never_runs(tmp_path, nested, legacy):
    fuse = tmp_path / "exploded"
    document = {"state_dict": net().state_dict(), "hook": Bomb(fuse)} if nested else Bomb(fuse)
    path = tmp_path / "w.pt"
    if legacy == "plain pickle":
        path.write_bytes(pickle.dumps(document))
    else:
        torch.save(document, path, _use_new_zipfile_serialization=legacy == "zip")
    with pytest.raises(ModelError, match=r"nothing (in it )?was run") as caught:
        load_weights(net(), path)
    assert not fuse.exists()
    if legacy != "plain pickle":
        assert "mkdir" in caught.value.message
        assert "save_file" in caught.value.hint
    # the file is a live bomb: an unsafe reader would have run it
    if legacy == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert fuse.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(net(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="nothing was run"):
        load_weights(net(), tmp_path / "w.pt")
