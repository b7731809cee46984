"""Everything that decides what ``compress`` does, in one frozen record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hwprune.budget import Budget, Metric, parse_budget
from hwprune.compression.sparse_settings import NOTHING, block, check_sparse, share
from hwprune.deploy import Storage
from hwprune.errors import BudgetError, InputError
from hwprune.inputs import Input, read_inputs, spelled
from hwprune.saliency import criteria

METRICS: dict[str, Metric] = {  # the first of those that are given is used up, the others are limits beside it
    "latency": "latency_ms",
    "memory": "memory_bytes",
    "size": "size_bytes",
    "macs": "macs",
}
ONESHOT = "-oneshot"
Sparsify = Literal[
    "none", "gmp", "granet", "rigl", "set", "srigl", "iee", "nm", "bidirectional", "recoverable"
]  # rules of hwprune.regrow, and two of its ways that are none
Method = Literal[
    "joint", "joint-oneshot", "halp", "halp-oneshot", "uniform", "uniform-oneshot", "global", "global-oneshot"
]


def _one_spelling(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        return value
    try:
        return spelled(read_inputs(value))
    except InputError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error  # named with all other faults of the settings


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, float) else value


class CompressConfig(BaseModel):
    """A compression, as a user describes it; the same keys serve flags, TOML files and Python.

    At least one of ``latency``, ``memory``, ``size`` and ``macs`` is given, or ``sparsify``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: str = Field(
        description="file.py:factory, package:factory, zoo:NAME, timm:NAME, torchvision:NAME or transformers:FOLDER"
    )
    input_shape: Annotated[tuple[int, ...] | str, BeforeValidator(_one_spelling)] = Field(
        description="shape of the input, batch first; several, or other types: ids=1,128:int64<30522;mask=1,128:int64"
    )
    data: str = Field(description="ImageFolder directory, .parquet, .npz, digits, or file.py:factory")
    output: Path = Field(description="folder of the run")
    weights: Path | None = Field(default=None, description=".safetensors, or .pt holding tensors only")
    task: Path | None = Field(
        default=None, description="file with loss(model, batch) and evaluate(predict); classification if absent"
    )
    target: str = Field(default="local-onnxruntime", description="known target or TOML file")
    threads: int | None = Field(default=None, ge=1, description="overrides the target's")
    precision: str | None = Field(default=None, description="overrides the target's")
    batch: int | None = Field(default=None, ge=1, description="overrides the target's")
    calibration_samples: int = Field(
        default=128, ge=1, description="samples of the training set that int8 and fp16 are calibrated on"
    )
    max_degradation: float | None = Field(
        default=None, ge=0, description="most that the engine's metric may lose against the model that was given"
    )
    percent_max_degradation: float | None = Field(
        default=None, ge=0, description="the same, in per cent of that model's metric"
    )
    table: Path | None = Field(default=None, description="latency table of the target; measured now if absent")
    latency: str | None = Field(default=None, description="0.5x of the dense network, or 8ms")
    size: str | None = Field(default=None, description="0.5x, or 2MB; with sparsify met by zeros, of the stored file")
    memory: str | None = Field(
        default=None, description="0.5x, or 2MB: weights and the most activations that are held at once"
    )
    weights_in_flash: bool = Field(default=False, description="memory holds activations alone, as on microcontrollers")
    macs: str | None = Field(default=None, description="0.5x, or 100M")
    head_sizes: bool = Field(default=False, description="cut the size of attention heads as well as their number")
    method: Method = Field(
        default="joint", description="what chooses widths; with -oneshot in one step before training, not during it"
    )
    remove_blocks: bool = Field(
        default=False, description="whole residual blocks may be removed, too (method joint alone)"
    )
    regrow: Literal["none", "iee"] = Field(
        default="none", description="iee: what is pruned is tried out again, and grown back where it is worth more"
    )
    explore_fraction: float = Field(
        default=0.3, ge=0, lt=1, description="of the budget that iee prunes too much in its first cycle, and grows back"
    )
    sparsify: Sparsify = Field(
        default=NOTHING, description="rule by which single weights become zero while the network is fine-tuned"
    )
    sparsity: Annotated[str | None, BeforeValidator(_text)] = Field(
        default=None, description="share of the masked weights that is zero: 0.9 or 90%"
    )
    pattern: str | None = Field(default=None, description="of nm: 2:4 keeps two of four inputs in a row")
    initial_density: float | None = Field(
        default=None, gt=0, le=1, description="of granet: share of the weights that it starts with; all if absent"
    )
    stay_dense: tuple[str, ...] | None = Field(
        default=None,
        description="weights or layers of which nothing becomes zero; * and ? stand for others: *pos_embed",
    )
    storage: str | None = Field(
        default=None, description="form of the sparse file: dense, bitmask, gap8 or onnx, with -fp16, -int8, -zlib, -xz"
    )
    criterion: str = Field(default="taylor-bn", description="what a channel is worth")
    prune_steps: int = Field(default=5, ge=1, description="prune steps while training; HALP was made for 30")
    prune_epochs: int = Field(default=1, ge=1, description="epochs over which they are spread")
    saliency_batches: int = Field(default=32, ge=1, description="minibatches that -oneshot scores channels on")
    epochs: int = Field(default=10, ge=0, description="epochs of fine-tuning after the cut")
    learning_rate: float = Field(default=0.01, gt=0)
    batch_size: int = Field(default=64, ge=1, description="of all processes together")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distill: float = Field(default=0.0, ge=0, le=1, description="weight of distillation from the dense model")
    augment: bool = Field(default=False, description="random crops and flips of training images")
    workers: int = Field(default=0, ge=0, le=256, description="processes that load data")
    accelerator: str = Field(default="auto", description="where training runs, as Lightning Fabric names it")
    training_precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true", description="of training, as Lightning Fabric names it; the target's is another matter"
    )
    channel_step: int = Field(
        default=8,
        ge=1,
        description="width step without a latency table; for memory, at least the runtime's block of channels",
    )
    table_method: Literal["in-context", "alone"] = Field(
        default="in-context", description="how the table is measured: from whole networks, or every layer alone"
    )
    table_points: int = Field(default=5, ge=2, description="samples per channel dimension of layers measured alone")
    seed: int = Field(default=0, ge=0, lt=2**32)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the model is fed."""
        return read_inputs(self.input_shape)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All budgets that channels are cut for; without any nothing is cut, and something becomes sparse.

        Raises:
            BudgetError: none, or malformed.
        """
        names = [name for name in METRICS if name != "size" or self.sparsify == NOTHING]
        given = {METRICS[name]: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not given and self.sparsify == NOTHING:
            raise BudgetError(
                "0 budgets were given",
                hint="give at least one of --latency, --size, --memory and --macs, such as --latency 0.5x",
            )
        return tuple(parse_budget(metric, text) for metric, text in given.items())

    @property
    def file_budget(self) -> Budget | None:
        """What the stored file may take, where zeros are to meet that.

        Raises:
            BudgetError: malformed.
        """
        sparse = self.sparsify != NOTHING and self.size is not None
        return parse_budget("size_bytes", str(self.size)) if sparse else None

    @property
    def density(self) -> float | None:
        """Share of the masked weights that stays, where it was given.

        Raises:
            InputError: the sparsity or the pattern is malformed.
        """
        if self.sparsify == "nm":
            kept, size = self.block
            return kept / size
        return None if self.sparsity is None else 1 - share(self.sparsity)

    @property
    def stored_as(self) -> Storage:
        """Form of the file that a sparse network is stored in: ``gap8`` if none was given.

        Raises:
            InputError: there is no such form.
        """
        return Storage.parse(self.storage or "gap8")

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded when they are stored."""
        return self.sparsify != NOTHING and self.stored_as.precision != "fp32"

    @property
    def sparse_request(self) -> str | None:
        """How many zeros were asked for, in words; None if a size or nothing was."""
        if self.sparsify == "nm":
            return "pattern {}:{}".format(*self.block)
        return None if self.sparsity is None else f"sparsity {self.sparsity}"

    @property
    def block(self) -> tuple[int, int]:
        """N and M of rule nm: 2 and 4 if no pattern was given.

        Raises:
            InputError: the pattern is malformed.
        """
        return block(self.pattern or "2:4")

    @property
    def budget(self) -> Budget:
        """The budget that is used up; only where channels are cut.

        Raises:
            BudgetError: as for :attr:`budgets`.
        """
        return self.budgets[0]

    @property
    def solver(self) -> str:
        """What chooses widths: a key of :data:`hwprune.budget.solvers`."""
        return self.method.removesuffix(ONESHOT)

    @property
    def oneshot(self) -> bool:
        """Whether channels are scored once and cut at once, before any training."""
        return self.method.endswith(ONESHOT)

    def resolved(self) -> dict[str, Any]:
        """JSON-able form with every default filled in."""
        return self.model_dump(mode="json")


def read_config(values: dict[str, Any]) -> CompressConfig:
    """Check a dictionary of settings.

    Raises:
        InputError: an unknown key, a missing one, or a value out of range; names every one.
    """
    try:
        config = CompressConfig(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (got {item.get('input')!r})"
            if item["type"] != "missing"
            else f"{item['loc'][0]} is missing"
            for item in error.errors()
        )
        raise InputError(problems, hint="see hwprune compress --help for what each setting allows") from error
    check(config)
    return config


def check(config: CompressConfig) -> None:
    """Refuse what the types of the settings allow and their meaning does not.

    Raises:
        InputError: an unknown criterion, no budget, several for a method that takes one, blocks or
            regrowth for others, settings of another way to make weights zero than the one asked for.
    """
    if config.criterion not in criteria():
        raise InputError(f"criterion {config.criterion!r} is unknown", hint=f"one of {', '.join(sorted(criteria()))}")
    if config.precision is not None and (config.precision == "auto" or "," in config.precision):
        raise InputError(
            f"compress prunes for one precision, not for {config.precision!r}",
            hint="hwprune export --model … --precision auto measures which is fastest; give that one",
        )
    if len(config.budgets) > 1 and config.solver == "halp":
        raise InputError(
            f"method {config.method} takes one budget, and {len(config.budgets)} were given",
            hint="use --method joint, or leave out all budgets but one",
        )
    if config.regrow != "none" and config.oneshot:
        raise InputError(f"method {config.method} does not regrow", hint="leave out -oneshot, or --regrow")
    if config.remove_blocks and config.solver != "joint":
        raise InputError(f"method {config.method} cannot remove blocks", hint="use --method joint")
    check_sparse(config)
