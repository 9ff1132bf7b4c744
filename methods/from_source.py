"""Losses between a net that is fine-tuned and its source: each a function of a `losses.Batch`.

  L2-SP: Li, Grandvalet & Davoine, 'Explicit Inductive Bias for Transfer Learning with
  Convolutional Networks', https://arxiv.org/abs/1802.01483
  DELTA: see delta.py; AFD and AFA: see attentive.py

All but L2-SP are means over the batch. Features are {name of a convolution: output (B, C, H, W)}.
"""
import torch

from methods.attentive import channel_attention, entropy, spatial_attention
from utils import without_prefix


def feature_distance(source, target, weights=None, positions='mean', normalize=False):
    """Compute half the squared distance of features, added up over layers -> ().

    weights: {layer: (C,), (B, C) or (B, H, W)}, by which the squared differences of channels or
    positions are multiplied; None: 1. positions: 'mean' or 'sum' over H and W. normalize: whether
    each channel's map is divided by its norm first.
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


# ---- methods ------------------------------------------------------------------------------------

def l2_sp_loss(batch):
    """Return L2-SP's loss: half the squared distance of the parameters from those of the source,
    the entries under 'teacher.', without the head."""
    student, start = (without_prefix(batch.params, k) for k in ('student.', 'teacher.'))
    return [sum((student[k] - v).square().sum() for k, v in start.items()) / 2]


def features(batch, weights=None):
    """Compute the `feature_distance` between source and student, by the options."""
    return feature_distance(batch.teacher.taps, batch.student.taps, weights, batch.opt.positions,
                            batch.opt.normalize_features)


def feature_map_loss(batch):
    """Return DELTA's loss without its channel weights: the distance of all features alike."""
    return [features(batch)]


def delta_loss(batch):
    """Return DELTA's loss: the distance weighted by fixed weights of channels, the entries
    'teacher.channel_weights.<layer>' (C,), times C."""
    channels = without_prefix(batch.params, 'teacher.channel_weights.')
    return [features(batch, {k: v * len(v) for k, v in channels.items()})]


def attention_weighted(batch, attention, factor, part=''):
    """Compute the distance weighted by factor(attention) of learned attention -> [the loss], and
    the entropy of each layer's attention, to be logged. The entries of attention are those under
    'attention.<layer>', or a `part` of these."""
    found = {k: attention(x, batch.params, f'attention.{k}{part}')
             for k, x in batch.teacher.taps.items()}
    weights = {k: factor(v) for k, v in found.items()}
    return [features(batch, weights)], list(map(entropy, found.values()))


def afd_loss(batch):
    """Return AFD's loss: the sum of attention times squared distance, without the half."""
    return attention_weighted(batch, channel_attention, lambda a: 2 * a)


def ast_loss(batch, part=''):
    """Return the loss of AFA's first stage, Eq. 6: by attention to positions, squared; as in the
    published code times H W, and with the half."""
    return attention_weighted(batch, spatial_attention, lambda a: (a * a[0].numel()).square(), part)


def act_loss(batch, part=''):
    """Return the loss of AFA's second stage, Eq. 8: by attention to channels; as in the published
    code times C, and with the half."""
    return attention_weighted(batch, channel_attention, lambda a: a * a.shape[1], part)


def ast_act_loss(batch):
    """Return the loss of AFA in one stage, section 5.5.4: the sum of those of both stages."""
    ((x,), of_positions), ((y,), of_channels) = ast_loss(batch, '.ast'), act_loss(batch, '.act')
    return [x + y], of_positions + of_channels
