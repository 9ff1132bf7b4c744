"""Losses between a net that is fine-tuned and its source: each a function of a `losses.Batch`.

  L2-SP: Li, Grandvalet & Davoine, 'Explicit Inductive Bias for Transfer Learning with
  Convolutional Networks', https://arxiv.org/abs/1802.01483
  DELTA: Li et al., 'DELTA: Deep Learning Transfer using Feature Map with Attention for
  Convolutional Networks', https://arxiv.org/abs/1901.09229
  AFD and AFA: see attentive.py

All are means over the batch. Features are dicts {name of a convolution: its output (B, C, H, W)}.
"""
import torch

import utils
from methods.attentive import channel_attention, entropy, spatial_attention


def feature_distance(source, target, weights=None, positions='mean', normalize=False):
    """Half the squared distance of feature maps, added up over layers.

    weights: {layer: (C,), (B, C) or (B, H, W)}, of which the squared differences of channels or
    positions are multiplied; None: 1. positions: 'mean' or 'sum' over H and W. normalize: each
    channel's map is divided by its norm first.
    """
    total = 0.
    for layer, x in source.items():
        y, area = target[layer], x[0, 0].numel()
        dtype = torch.promote_types(x.dtype, torch.float32)
        if normalize:
            x, y = (v.to(dtype) / (torch.linalg.vector_norm(v, dim=(2, 3), keepdim=True,
                                                            dtype=dtype) + 1e-6) for v in (x, y))
        over = 1 if weights is not None and weights[layer].ndim == 3 else (2, 3)
        squares = torch.linalg.vector_norm(y - x, dim=over, dtype=dtype).square()
        if weights is not None:
            squares = squares * weights[layer].to(dtype)
        distance = squares.sum() / len(x) / 2
        total = total + (distance / area if positions == 'mean' else distance)
    return total


def l2_distance(params, start):
    """Half the squared distance of parameters to where they started, both {name: tensor} of the
    same names (L2-SP without the decay of the head)."""
    return sum((params[k] - v).square().sum() for k, v in start.items()) / 2


# ---- methods ------------------------------------------------------------------------------------

def l2_sp(batch):
    """L2-SP; the source's parameters are those under 'teacher.', without its head."""
    start = utils.without_prefix(batch.params, 'teacher.')
    return [l2_distance(utils.without_prefix(batch.params, 'student.'), start)]


def features(batch, weights=None):
    """`feature_distance` between source and student, by the options."""
    return feature_distance(batch.teacher.taps, batch.student.taps, weights, batch.opt.positions,
                            batch.opt.normalize_features)


def feature_map(batch):
    """The distance of all features alike, DELTA without its channel weights."""
    return [features(batch)]


def delta(batch):
    """DELTA; the channel weights are entries 'teacher.channel_weights.<layer>'."""
    channels = utils.without_prefix(batch.params, 'teacher.channel_weights.')
    return [features(batch, {k: v * len(v) for k, v in channels.items()})]


def attentive(batch, attention, factor):
    """The distance weighted by learned `attention`, times `factor`(attention). The entropies of the
    layers' attention are logged."""
    found = {k: attention(x, batch.params, f'attention.{k}')
             for k, x in batch.teacher.taps.items()}
    weights = {k: factor(v) for k, v in found.items()}
    return [features(batch, weights)], list(map(entropy, found.values()))


def afd(batch):
    """AFD: the sum of attention times squared distance, without the half."""
    return attentive(batch, channel_attention, lambda a: 2 * a)


def ast(batch):
    """AFA's first stage, Eq. 6: attention of positions, squared."""
    return attentive(batch, spatial_attention, lambda a: (a * a[0].numel()).square())


def act(batch):
    """AFA's second stage, Eq. 8: attention of channels."""
    return attentive(batch, channel_attention, lambda a: a * a.shape[1])
