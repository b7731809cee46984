"""From files to what an engine takes, sample by sample and batch by batch; stands beside ``run.py``.

It needs Python 3.8 and numpy (imported late).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hwprune.device_runner import BadInput, sibling
else:
    from device_runner import BadInput, sibling  # beside this one on a device

if TYPE_CHECKING:
    from numpy.typing import NDArray


def samples(
    path: Path, ports: Sequence[Mapping[str, Any]], preprocessing: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """What a file holds for every input of an engine, (N, …) each.

    Args:
        path: as in ``device_verbs.infer``.
        ports: the engine's inputs.
        preprocessing: how raw pixels become inputs; another kind than ``image``: arrays are taken as they are.

    Raises:
        BadInput: it cannot be read, or does not fit.
    """
    np = importlib.import_module("numpy")
    images, pictures = preprocessing.get("kind") == "image", sibling("device_image")
    if path.suffix.lower() in (".npy", ".npz"):
        arrays = _arrays(path)
        if path.suffix.lower() == ".npz" and set(arrays) == {port["name"] for port in ports}:
            return {port["name"]: _fitting(arrays[port["name"]], port, path) for port in ports}
        if "x" not in arrays and len(arrays) != 1:
            raise BadInput(f"{path} has the arrays {sorted(arrays)}; one, or one of them called 'x', is needed")
        array = arrays["x"] if "x" in arrays else next(iter(arrays.values()))
        if images and array.dtype == np.uint8:
            array = np.stack([pictures.prepared(pixels, preprocessing) for pixels in _pictures(array, path)])
    elif images:
        array = pictures.prepared(pictures.read_image(path, preprocessing["color"]), preprocessing)[None]
    else:
        raise BadInput(
            f"{path}: the bundle does not say what to do to images; give the network's input as .npy or .npz"
        )
    if len(ports) != 1:
        names = ", ".join(port["name"] for port in ports)
        raise BadInput(f"{path}: the engine has several inputs; give an .npz with arrays called {names}")
    return {ports[0]["name"]: _fitting(array, ports[0], path)}


def in_batches(engine: Any, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Outputs for all samples, in order; the last batch is filled up with its last sample.

    Raises:
        BadInput: inputs or outputs of the engine cannot be told apart by sample, or inputs differ in their number.
    """
    np = importlib.import_module("numpy")
    sizes = {port["shape"][0] if port["shape"] else 0 for port in engine.inputs}
    counts = {len(array) for array in feeds.values()}
    if len(sizes) != 1 or 0 in sizes or len(counts) != 1 or 0 in counts:
        raise BadInput(
            f"the engine takes batches of {sizes}, and {counts} samples are given; one size of each is needed"
        )
    size, count = sizes.pop() or 1, counts.pop()
    found = []
    for start in range(0, count, size):
        chosen = np.minimum(np.arange(start, start + size), count - 1)
        outputs = engine.run({name: np.ascontiguousarray(array[chosen]) for name, array in feeds.items()})
        if any(one.ndim == 0 or len(one) != size for one in outputs):
            raise BadInput(f"the engine's outputs are no batch of {size}: they cannot be told apart by sample")
        found.append([one[: count - start] for one in outputs])
    return [np.concatenate(parts) for parts in zip(*found)]


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    np = importlib.import_module("numpy")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if path.suffix.lower() == ".npz" else {"x": loaded}
    except Exception as error:  # a damaged archive fails in any way it likes
        raise BadInput(f"{path} cannot be read: {error}") from error


def _pictures(array: NDArray[Any], path: Path) -> list[NDArray[Any]]:
    """Single pictures, (H, W, C)."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] in (1, 3):
        array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not array.size:
        raise BadInput(
            f"{path} is uint8 of shape {array.shape}; pixels are (H, W), (H, W, C), (N, H, W) or (N, H, W, C)"
        )
    return list(array)


def _fitting(array: NDArray[Any], port: Mapping[str, Any], path: Path) -> NDArray[Any]:
    np = importlib.import_module("numpy")
    wanted, shape = port["shape"][1:], list(array.shape[1:])
    fits = len(wanted) == len(shape) and all(size in (None, own) for size, own in zip(wanted, shape))
    if array.ndim == 0 or not fits or not np.can_cast(array.dtype, port["dtype"], "same_kind"):
        given = f"{array.dtype} of shape {list(array.shape)}"
        raise BadInput(f"{path} is {given}; the input {port['name']!r} is {port['dtype']} of shape (N, *{wanted})")
    return array.astype(port["dtype"])
