"""``nn.MultiheadAttention`` with as many heads, and inputs as wide, as its weights have.

Torch's own takes the size of a head as ``embed_dim // num_heads``, and checks that its input and the sum of its heads
are both ``embed_dim`` wide. So neither heads nor the width of the embedding could be cut from it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def make_resizable(model: nn.Module, tensors: Iterable[str] | None = None) -> None:
    """Let the multi-head attention layers of a model compute with whatever sizes their weights have, in place.

    Names, parameters and results stay.

    Args:
        model: to change.
        tensors: names in its ``state_dict``; only layers that own one of them are changed. None for all layers.
    """
    owners = None if tensors is None else {name.rpartition(".")[0] for name in tensors}
    for path, module in model.named_modules():
        if type(module) is nn.MultiheadAttention and (owners is None or owners & {path, f"{path}.out_proj"}):
            module.__class__ = ResizableAttention
            module.scale = module.__dict__.pop("head_dim") ** -0.5  # of the scores; it stays when the size is cut
            module._qkv_same_embed_dim = False  # keeps transformer layers from their fused path, which checks sizes


class ResizableAttention(nn.MultiheadAttention):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) of ``num_heads`` heads, as large as weights have them.

    Made by :func:`make_resizable`; takes and returns what ``nn.MultiheadAttention`` does, nested tensors excepted.

    Attributes:
        scale: what scores are multiplied by.
    """

    scale: float

    @property
    def head_dim(self) -> int:
        """The size of a query's head."""
        stacked = self.in_proj_weight is not None
        rows = len(self.in_proj_weight) // 3 if stacked else len(self.q_proj_weight)
        return int(rows // self.num_heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch: (length, N, width), (N, length, width) with ``batch_first``, or (length, width).

        Raises:
            RuntimeError: ``is_causal`` without ``attn_mask``; as a hint it is not used.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        query, key, value = self._inputs(query, key, value)
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        heads = [part.transpose(1, 2) for part in self._projected(query, key, value)]
        mask = self._mask(attn_mask, key_padding_mask, len(query), heads[0].dtype)
        added, weights = self._attended(*self._extended(heads[1], heads[2]), heads[0], mask, need_weights)
        output = self.out_proj(added.transpose(1, 2).flatten(-2))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        if not batched:
            return output.squeeze(0), weights
        return output if self.batch_first else output.transpose(0, 1), weights

    def _inputs(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(N, length, width) each; the same tensor where the same one was given."""
        made: dict[int, Tensor] = {}
        for tensor in tensors:
            if tensor.dim() == 2:
                made[id(tensor)] = tensor.unsqueeze(0)
            else:
                made[id(tensor)] = tensor if self.batch_first else tensor.transpose(0, 1)
        return tuple(made[id(tensor)] for tensor in tensors)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values, (N, length, heads, head size) each."""
        sizes = (self.num_heads, -1)
        if self.in_proj_weight is not None and query is key and key is value:
            joined = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            return list(joined.view(*joined.shape[:-1], 3, *sizes).unbind(2))
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        parts = zip((query, key, value), weights, biases, strict=True)
        return [F.linear(one, weight, bias).view(*one.shape[:-1], *sizes) for one, weight, bias in parts]

    def _extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (N, heads, length, head size), with those learnt (``bias_k``) and those of zeros behind."""
        if self.bias_k is not None and self.bias_v is not None:
            sizes, times = (1, 1, self.num_heads, -1), (len(key), -1, -1, -1)
            key = torch.cat([key, self.bias_k.view(sizes).transpose(1, 2).expand(times)], dim=2)
            value = torch.cat([value, self.bias_v.view(sizes).transpose(1, 2).expand(times)], dim=2)
        if self.add_zero_attn:
            key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
        return key, value

    def _mask(self, given: Tensor | None, padding: Tensor | None, count: int, dtype: torch.dtype) -> Tensor | None:
        """Both masks as one that is added to the scores, broadcastable to (N, heads, length, length of keys)."""
        total: Tensor | None = None
        for mask, shape in ((given, None), (padding, (count, 1, 1, -1))):
            if mask is None:
                continue
            if mask.dtype is torch.bool:
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
            if mask.dim() == 3:
                shape = (count, self.num_heads, *mask.shape[1:])
            mask = mask if shape is None else mask.view(shape)
            total = mask if total is None else total + mask
        added = (self.bias_k is not None) + self.add_zero_attn
        return F.pad(total, (0, added)) if total is not None and added else total

    def _attended(
        self, key: Tensor, value: Tensor, query: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Values by attention, (N, heads, length, head size), and the weights, if wanted."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            made = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, scale=self.scale
            )
            return made, None
        scores = (query * self.scale) @ key.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, dropout) if dropout else weights
        return weights @ value, weights
