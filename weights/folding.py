"""Folding batch normalisation into the convolutions before it, and restoring it."""
import torch

import utils
from weights.architecture import architecture_of, convolutions, weight_of
from weights.facts import on_meta

EPS = 1e-5      # of F.batch_norm


def affine(params, base):
    """Return scale and shift, each (C,), of the normalisation `base` in evaluation mode; None, if
    there is no such normalisation, or a gate computes them."""
    if f'{base}.gate.weight' in params:
        return None
    for kind in ('running', 'fixed'):
        if f'{base}.{kind}_mean' in params:
            mean, var, weight, bias = (params[f'{base}.{k}'] for k in (
                f'{kind}_mean', f'{kind}_var', 'weight', 'bias'))
            scale = weight / (var + EPS).sqrt()
            return scale, bias - mean * scale
    for scale, shift in (('.weight', '.bias'), ('.a', '.b')):
        if params.get(base + scale) is not None and params[base + scale].ndim == 1:
            return params[base + scale], params[base + shift]
    return None


def without(params, base):
    """Return the parameters without the entries of the normalisation `base`, but for its gate's."""
    return {k: v for k, v in params.items() if k.rpartition('.')[0] != base}


@torch.no_grad()
def fold(params, keep=()):
    """Fold normalisations (`utils.bn_of`) into the convolutions before them, except those to `keep`
    -> parameters with which the net computes the same in evaluation mode. A WRN, which normalises
    before its convolutions, stays as it is, and so does NIN, which has no place for biases."""
    if architecture_of(params).kind in ('wrn', 'nin'):
        return params
    for conv in convolutions(params):
        base = utils.bn_of(conv)
        if conv not in keep and (found := affine(params, base)):
            scale, shift = found
            weight = weight_of(params, conv)
            bias = params.get(conv + '.bias', 0) * scale + shift
            params = {**without(params, base), weight: params[weight] * scale[:, None, None, None],
                      conv + '.bias': bias}
    return params


def normalisations(f, params):
    """Return the names of a net's normalisations, present or folded away."""
    convs = convolutions(params)
    taps = dict.fromkeys([*map(utils.bn_of, convs),
                          *(k.rpartition('.')[0] for k, v in params.items() if v.ndim == 1)])
    f(*on_meta(params), False, taps=taps)
    return [k for k, x in taps.items() if x is not None and x.ndim == 4 and k not in convs]


def folded(f, params):
    """Return those `normalisations` that were folded away: without statistics, or an identity's."""
    def has(base):
        mean, var = (params.get(f'{base}.running_{k}') for k in ('mean', 'var'))
        return mean is not None and bool(mean.any() or (var - var[0]).any())

    return [base for base in normalisations(f, params) if not has(base)]


@torch.no_grad()
def restore_batch_norm(f, params, batches):
    """Restore the batch normalisation of a net (f, params) wherever it was `folded` away, so that
    it can be trained with batch statistics -> parameters.

    Mean and variance of what enters each normalisation are taken over `batches`, inputs (B, 3, H,
    W), and its scale and shift are such that in evaluation mode the net computes what it did
    before. A convolution's bias moves into that of its normalisation.
    """
    moments = {base: 0 for base in folded(f, params)}
    for inputs in batches:
        taps = dict.fromkeys(moments)
        f(inputs, params, False, taps=taps)
        for base, x in taps.items():
            x = x.double()
            moments[base] = moments[base] + torch.stack([
                torch.full_like(x[0, :, 0, 0], x.numel() / x.shape[1]), x.sum((0, 2, 3)),
                x.square().sum((0, 2, 3))])
    biases = {utils.bn_of(conv): conv + '.bias' for conv in convolutions(params)}
    for base, (n, total, squares) in moments.items():
        mean, dtype = total / n, next(iter(params.values())).dtype
        variance = (squares / n - mean.square()).clamp(0)
        scale, shift = affine(params, base) or (1, 0)
        bias = params.get(biases.get(base), 0)
        new = {'weight': scale * (variance + EPS).sqrt(), 'bias': scale * mean + shift,
               'running_mean': mean - bias, 'running_var': variance}
        params = {**{k: v for k, v in without(params, base).items() if k != biases.get(base)},
                  **{f'{base}.{k}': v.to(dtype) for k, v in new.items()}}
    return params
