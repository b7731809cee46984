"""How channel identities pass through each ATen operator.

One dict literal: operator name → rule. An operator that is not listed is element by element if PyTorch
tags it so; otherwise it freezes everything it touches.
"""

from __future__ import annotations

from hwprune.network.recording import Call
from hwprune.network.rules import elementwise, norms, pieces, reductions, shapes, spatial, weights
from hwprune.network.rules.step import Rule, Step, created, unknown

RULES: dict[str, Rule] = {
    # weights
    "convolution": weights.convolution,
    "_convolution": weights.convolution,
    "mm": weights.product,
    "bmm": weights.product,
    "matmul": weights.product,
    "addmm": weights.product_plus,
    "baddbmm": weights.product_plus,
    "linear": weights.linear,
    "embedding": weights.embedding,
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ),
        weights.attention,
    ),
    # norms
    "native_batch_norm": norms.batch_norm,
    "_native_batch_norm_legit": norms.batch_norm,
    "_native_batch_norm_legit_no_training": norms.batch_norm,
    "_batch_norm_no_update": norms.batch_norm,
    "cudnn_batch_norm": norms.batch_norm,
    "miopen_batch_norm": norms.batch_norm,
    "batch_norm": norms.batch_norm,
    "native_group_norm": norms.group_norm,
    "native_layer_norm": norms.layer_norm,
    "_weight_norm_interface": norms.weight_norm,
    # element by element, where PyTorch's tag is missing
    "_prelu_kernel": elementwise.elementwise,
    "prelu": elementwise.elementwise,
    "clamp": elementwise.elementwise,
    "hardswish": elementwise.elementwise,
    "log_sigmoid_forward": elementwise.elementwise,
    "copy": elementwise.elementwise,
    "_to_copy": elementwise.same,
    "to": elementwise.same,
    "contiguous": elementwise.same,
    "detach": elementwise.same,
    "alias": elementwise.same,
    "lift_fresh": elementwise.same,
    "dropout": elementwise.same,
    "native_dropout": elementwise.same,
    "bernoulli": elementwise.same,
    "fill": elementwise.same,
    "zero": elementwise.same,
    "zeros_like": elementwise.same,
    "ones_like": elementwise.same,
    "empty_like": elementwise.same,
    "full_like": elementwise.same,
    "rand_like": elementwise.same,
    "randn_like": elementwise.same,
    "new_zeros": created,
    "new_ones": created,
    "new_empty": created,
    "new_full": created,
    # reductions and other mixing
    "mean": reductions.reduction,
    "sum": reductions.reduction,
    "prod": reductions.reduction,
    "amax": reductions.reduction,
    "amin": reductions.reduction,
    "max": reductions.reduction,
    "min": reductions.reduction,
    "argmax": reductions.reduction,
    "argmin": reductions.reduction,
    "var": reductions.reduction,
    "std": reductions.reduction,
    "var_mean": reductions.reduction,
    "std_mean": reductions.reduction,
    "norm": reductions.reduction,
    "linalg_vector_norm": reductions.reduction,
    "logsumexp": reductions.reduction,
    "any": reductions.reduction,
    "all": reductions.reduction,
    "median": reductions.reduction,
    "_softmax": reductions.along,
    "_log_softmax": reductions.along,
    "cumsum": reductions.along,
    "cumprod": reductions.along,
    "sort": reductions.along,
    "roll": reductions.roll,
    # space
    "max_pool1d": spatial.spatial,
    "max_pool2d": spatial.spatial,
    "max_pool2d_with_indices": spatial.spatial,
    "max_pool3d_with_indices": spatial.spatial,
    "avg_pool1d": spatial.spatial,
    "avg_pool2d": spatial.spatial,
    "avg_pool3d": spatial.spatial,
    "adaptive_avg_pool1d": spatial.spatial,
    "adaptive_avg_pool2d": spatial.spatial,
    "_adaptive_avg_pool2d": spatial.spatial,
    "_adaptive_avg_pool3d": spatial.spatial,
    "adaptive_max_pool1d": spatial.spatial,
    "adaptive_max_pool2d": spatial.spatial,
    "adaptive_max_pool3d": spatial.spatial,
    "max_unpool2d": spatial.spatial,
    "max_unpool3d": spatial.spatial,
    "reflection_pad1d": spatial.spatial,
    "reflection_pad2d": spatial.spatial,
    "reflection_pad3d": spatial.spatial,
    "replication_pad1d": spatial.spatial,
    "replication_pad2d": spatial.spatial,
    "replication_pad3d": spatial.spatial,
    "upsample_nearest1d": spatial.spatial,
    "upsample_nearest2d": spatial.spatial,
    "upsample_nearest3d": spatial.spatial,
    "_upsample_nearest_exact1d": spatial.spatial,
    "_upsample_nearest_exact2d": spatial.spatial,
    "_upsample_nearest_exact3d": spatial.spatial,
    "upsample_linear1d": spatial.spatial,
    "upsample_bilinear2d": spatial.spatial,
    "upsample_trilinear3d": spatial.spatial,
    "upsample_bicubic2d": spatial.spatial,
    "_upsample_bilinear2d_aa": spatial.spatial,
    "_upsample_bicubic2d_aa": spatial.spatial,
    "pixel_shuffle": spatial.pixel_shuffle,
    "pixel_unshuffle": spatial.pixel_unshuffle,
    "channel_shuffle": spatial.channel_shuffle,
    "im2col": spatial.im2col,
    # views
    "view": shapes.view,
    "_unsafe_view": shapes.view,
    "reshape": shapes.view,
    "_reshape_alias": shapes.view,
    "permute": shapes.permute,
    "transpose": shapes.permute,
    "t": shapes.permute,
    "unsqueeze": shapes.unsqueeze,
    "squeeze": shapes.squeeze,
    "expand": shapes.expand,
    "repeat": shapes.repeat,
    "flip": shapes.flip,
    "unfold": shapes.unfold,
    "as_strided": shapes.as_strided,
    # joining and parting
    "cat": pieces.cat,
    "stack": pieces.stack,
    "split": pieces.split,
    "split_with_sizes": pieces.split,
    "unsafe_split": pieces.split,
    "unsafe_split_with_sizes": pieces.split,
    "slice": pieces.slice_,
    "select": pieces.select,
    "index": pieces.index,
    "index_select": pieces.index_select,
    "unbind": pieces.select,
    "glu": pieces.glu,
    "constant_pad_nd": pieces.pad,
}


def rule_for(call: Call) -> Rule:
    """The rule of an operator; :func:`unknown` if there is none or if it writes into its arguments."""
    if call.mutates:
        return unknown
    if call.op in RULES:
        return RULES[call.op]
    return elementwise.elementwise if call.pointwise else unknown


__all__ = ["RULES", "Rule", "Step", "created", "rule_for", "unknown"]
