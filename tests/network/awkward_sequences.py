"""Awkward modules: attention in its forms, tokens, positions, recurrence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .handwritten import case, channels, ends, image, parts, runs, tokens

EMBED = channels(8, "+embed -q -k -v +out -head")


def by_head(heads: int, size: int) -> list[list[int]]:
    """Head h has its positions in queries, in keys and in values, which follow one another."""
    return [[(part * heads + head) * size + i for part in range(3) for i in range(size)] for head in range(heads)]


@case(
    tokens(),
    cuttable={
        "embed": channels(8, "+embed -qkv +out -head"),
        "qkv": channels(4, "heads:0", {"+qkv": by_head(4, 3), "-out": runs(4, 3)}),
    },
    frozen=ends("embed", "head", flat=True),
)
class WrittenOutAttention(nn.Module):
    """Queries, keys and values from one layer; whole heads go, for their size is multiplied over."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 4, 3
        self.embed, self.qkv = nn.Linear(5, 8), nn.Linear(8, 36)
        self.out, self.head = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / self.size**0.5).softmax(-1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).flatten(2)))


GROUPED_QUERIES = {
    "embed": EMBED,
    "q": channels(2, "kv_heads:0", {"+q -out": runs(2, 12), "+k +v": runs(2, 4), "heads:0": runs(2, 3)}),
}


@case(tokens(), cuttable=GROUPED_QUERIES, frozen=ends("embed", "head", flat=True))
class GroupedQueries(nn.Module):
    """Three heads of queries for each of keys and values: four go together, and both counts with them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = 6, 2, 4
        self.embed, self.q = nn.Linear(5, 8), nn.Linear(8, 24)
        self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8)
        self.out, self.head = nn.Linear(24, 8), nn.Linear(8, 4)

    def spread(self, x: Tensor) -> Tensor:
        """(batch, kv_heads, length, size) → (batch, heads, length, size)."""
        batch, few, length, size = x.shape
        times = self.heads // self.kv_heads
        x = x[:, :, None].expand(batch, few, times, length, size)
        return x.reshape(batch, few * times, length, size)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, self.spread(k), self.spread(v))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        v = self.v(x).view(batch, length, self.kv_heads, self.size).transpose(1, 2)
        y = self.attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
        return self.head(x + self.out(y))


@case(tokens(), cuttable=GROUPED_QUERIES, frozen=ends("embed", "head", flat=True))
class RepeatedKeys(GroupedQueries):
    """The same by ``repeat_interleave``."""

    def spread(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.heads // self.kv_heads, 1)


MULTIPLIED = "two activations are multiplied and summed over this dimension ("


@case(
    tokens(),
    cuttable={"embed": EMBED},
    frozen={
        **ends("embed", "head", flat=True),
        "q": MULTIPLIED + "_scaled_dot_product_flash_attention_for_cpu in the model itself)",
        "k": MULTIPLIED + "_scaled_dot_product_flash_attention_for_cpu in the model itself)",
        "v": "cutting it fails: forward of the smaller network fails: RuntimeError: shape '[2, 7, 2, 4]' is invalid",
    },
)
class NativeGroupedQueries(GroupedQueries):
    """The same by torch's own option, which hides how heads of keys are spread: they stay."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


RELATIVE = {"embed": EMBED, "q": channels(4, "heads:0 table:1", {"+q +k +v -out": runs(4, 3)})}


@case(tokens(), cuttable=RELATIVE, frozen=ends("embed", "head", flat=True))
class RelativePositions(nn.Module):
    """A bias per head, looked up in a table by the distance of two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.embed, self.out, self.head = nn.Linear(5, 8), nn.Linear(12, 8), nn.Linear(8, 4)
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.table = nn.Parameter(torch.randn(13, 4))
        self.register_buffer("distance", torch.arange(7)[:, None] - torch.arange(7) + 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, _ = x.shape
        q, k, v = (one(x).view(batch, length, self.heads, 3).transpose(1, 2) for one in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(length))
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))

    def bias(self, length: int) -> Tensor:
        return self.table[self.distance.view(-1)].view(length, length, -1).permute(2, 0, 1)[None]


@case(tokens(), cuttable=RELATIVE, frozen=ends("embed", "head", flat=True))
class RelativePositionsWithoutBatch(RelativePositions):
    """The bias has three dimensions, so torch takes another way through attention."""

    def bias(self, length: int) -> Tensor:
        return super().bias(length)[0]


@case(
    tokens(),
    cuttable={"embed": channels(8, "+embed -qkv +out -head")},
    frozen={
        **ends("embed", "head", flat=True),
        "qkv": "every channel depends on the others (_softmax in the model itself)",
    },
)
class AttentionOverChannels(nn.Module):
    """Channels look at channels; tokens are summed over."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(5, 8), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return self.head(x + self.out((weights @ v.transpose(1, 2)).transpose(1, 2)))


@case(
    image(),
    cuttable={
        "patch": channels(8, "+patch token:2 position:2 norm.weight:0 norm.bias:0 -up +down gamma:0 -head"),
        "up": channels(16, "+up -down"),
    },
    frozen=ends("patch", "head"),
)
class TokenAndPositions(nn.Module):
    """A class token, embedded positions, and a scale for what a layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.up, self.down, self.gamma = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.full((8,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.gamma * self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x[:, 0])


@case(
    tokens(),
    frozen={
        **ends("embed", "head", flat=True),
        "embed": "no rule for the operator aten.gather.default (gather in the model itself)",
        "score": "a single channel is squeezed away (squeeze in the model itself)",
        "input of head": "the result of view in head, whose size is fixed (addmm in head)",
    },
)
class PickedTokens(nn.Module):
    """The three tokens with the highest score go on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(5, 8), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        best = self.score(x).squeeze(-1).topk(3, 1).indices
        return self.head(x.gather(1, best[..., None].expand(-1, -1, x.shape[-1])))


class WrittenOutLstm(nn.Module):
    """A long short-term memory, step by step; the four gates come from one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.inside, self.again, self.head = nn.Linear(5, 24), nn.Linear(6, 24), nn.Linear(6, 4)

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        hidden, memory = self.start(x)
        for step in range(x.shape[1]):
            gates = self.inside(x[:, step]) + self.again(hidden)
            come, keep, go, new = gates.chunk(4, 1)
            memory = keep.sigmoid() * memory + come.sigmoid() * new.tanh()
            hidden = go.sigmoid() * memory.tanh()
        return self.head(hidden)


@case(
    tokens(),
    cuttable={"inside": channels(6, "-again hidden:0 memory:0 -head", {"+inside +again": parts(6, 4)})},
    frozen={
        "input of inside": "whose size is fixed (addmm in inside)",
        "head": "the model's output",
    },
)
class LearntStart(WrittenOutLstm):
    """It begins with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.memory = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.hidden.expand(x.shape[0], -1), self.memory.expand(x.shape[0], -1)


@case(
    tokens(),
    frozen={
        "input of inside": "whose size is fixed (addmm in inside)",
        "inside": "reads the result of zeros in the model itself, whose size is fixed (addmm in again)",
        "head": "the model's output",
    },
)
class ZeroStart(WrittenOutLstm):
    """It begins with zeros, as many as the module remembers."""

    def start(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(x.shape[0], self.width), torch.zeros(x.shape[0], self.width)


GATES = "layer.weight_ih_l0:0 layer.bias_ih_l0:0 layer.bias_hh_l0:0"


@case(
    tokens(),
    cuttable={
        "embed": channels(8, "+embed layer.weight_ih_l0:1"),
        "layer": channels(6, "layer.weight_hh_l0:1 -head", {f"{GATES} layer.weight_hh_l0:0": parts(6, 4)}),
    },
    frozen=ends("embed", "head", flat=True),
)
class LstmLayer(nn.Module):
    """Torch's own layer: a hidden unit goes with its four gates."""

    kind: type[nn.Module] = nn.LSTM

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(6, 4)
        self.layer = self.kind(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x))[0])


@case(
    tokens(),
    cuttable={
        "embed": channels(8, "+embed layer.weight_ih_l0:1"),
        "layer": channels(6, "layer.weight_hh_l0:1 -head", {f"{GATES} layer.weight_hh_l0:0": parts(6, 3)}),
    },
    frozen=ends("embed", "head", flat=True),
)
class GruLayer(LstmLayer):
    """Three gates."""

    kind = nn.GRU


@case(
    tokens(),
    cuttable={
        "embed": channels(8, "+embed layer.in_proj_weight:1"),
        "layer": channels(
            2,
            "layer.num_heads:0",
            {"layer.in_proj_weight:0 layer.in_proj_bias:0": by_head(2, 4), "-layer.out_proj": runs(2, 4)},
        ),
        "layer.out_proj": channels(8, "+layer.out_proj -head"),
    },
    frozen=ends("embed", "head", flat=True),
)
class MultiheadLayer(nn.Module):
    """What goes into torch's own layer, its heads, and what comes out: three widths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.layer(x, x, x, need_weights=False)[0])
