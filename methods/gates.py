"""Gates: scales of channels that are predicted for each image (AFS).

  AFS: the paper of AFD, and its sources, see attentive.py
  FBS: Gao et al., 'Dynamic Channel Pruning: Feature Boosting and Suppression',
  https://arxiv.org/abs/1810.05331

A gate is the entries of a net's dict under '<normalisation>.gate'; `utils.gated` computes it, and
says what q and pi are.
"""
import torch

import utils
from methods import channels
from utils import InputError
from weights import facts
from weights.architecture import architecture_of, weight_of

# what stands for a scale of zero, since a gate of zero would take the shift away too
TINY = 1e-30

# ---- nets with and without gates ----------------------------------------------------------------

def gates(params):
    """Return the names of the normalisations that have a gate."""
    return [k.removesuffix('.gate.weight') for k in params if k.endswith('.gate.weight')]


def gated_sets(params):
    """Return the gated normalisation of each set of channels that has one, {set: its name}."""
    return {conv: channel_set.norms[0]
            for conv, channel_set in architecture_of(params).channels.items()
            if f'{channel_set.norms[0]}.gate.weight' in params}


def with_gates(params):
    """Return the net with a gate for each set of channels, in place of the scale of the batch
    normalisation of its first convolution. It computes, in evaluation mode, what it did before.
    InputError, if no set has a batch normalisation."""
    for conv, channel_set in architecture_of(params).channels.items():
        base = channel_set.norms[0]
        if f'{base}.weight' in params and any(f'{base}.{kind}_mean' in params
                                              for kind in ('running', 'fixed')):
            params = with_gate(params, conv, base)
    if not gates(params):
        raise InputError('this net has no place for gates: they replace the scale of the batch '
                         'normalisation of channels inside a block')
    return params


@torch.no_grad()
def with_gate(params, conv, base):
    """Return the net with a gate in place of the scale of the normalisation `base` of `conv`.

    Its entries are the predictor's `weight` (C, C_in), zeros, and `bias` (C,), the old scale's
    absolute value; `scale` (C,), the same, for channels that are not `dynamic` (C,); `mask` (C,);
    `density` (), one. Negative signs of the old scale move into the convolution.
    """
    weight, scale = weight_of(params, conv), params[f'{base}.weight']
    sign = torch.where(scale < 0, -1., 1.).to(scale.dtype)
    size = scale.abs().clamp_min(TINY)
    gate = utils.with_prefix({
        'weight': scale.new_zeros(params[weight].shape[:2]), 'bias': size, 'scale': size.clone(),
        'dynamic': torch.ones_like(size), 'mask': torch.ones_like(size),
        'density': scale.new_ones(())}, f'{base}.gate.')
    turned = {k: params[k] for k in (weight, f'{conv}.bias', f'{base}.running_mean',
                                     f'{base}.fixed_mean') if k in params}
    turned = {k: (v * sign.view(-1, *[1] * (v.ndim - 1))).requires_grad_(v.requires_grad)
              for k, v in turned.items()}
    for k, v in gate.items():
        v.requires_grad_(scale.requires_grad and not utils.is_statistic(k))
    return {k: v for k, v in params.items() if k != f'{base}.weight'} | turned | gate


@torch.no_grad()
def without_gates(params, static_only=False):
    """Return the net with plain batch normalisation in place of its gates, whose scales are those
    of static gates; with `static_only` just in place of gates without any dynamic channels, and the
    net computes the same."""
    for base in gates(params):
        if not (static_only and params[f'{base}.gate.dynamic'].any()):
            scale, shift = params[f'{base}.gate.scale'], params[f'{base}.bias']
            shift = torch.where(scale == 0, 0, shift).requires_grad_(shift.requires_grad)
            params = {**{k: v for k, v in params.items() if not k.startswith(f'{base}.gate.')},
                      f'{base}.weight': scale, f'{base}.bias': shift}
    return params


def compact(params):
    """Return the net without its masked channels and its static gates: a smaller dict of which the
    same function computes the same logits."""
    return without_gates(channels.cut(params, channels.unmasked(params)), static_only=True)


# ---- what gates do, and how that changes them ---------------------------------------------------

@torch.no_grad()
def statistics(f, params, batches):
    """Measure gates over batches of inputs (B, 3, H, W), in evaluation mode -> {normalisation:
    {'mean' and 'variance' of q, and 'pi', its mean; each (C,), in double precision}}."""
    sums, first, n = {}, {}, 0
    for inputs in batches:
        taps = dict.fromkeys(k for b in gates(params) for k in (f'{b}.gate', f'{b}.gate.q'))
        f(inputs, params, False, taps=taps)
        for base in gates(params):
            q, pi = taps[f'{base}.gate.q'].double(), taps[f'{base}.gate'].double()
            # sums of differences, so that what never varies has a variance of exactly zero
            d = q - first.setdefault(base, q[0])
            sums[base] = sums.get(base, 0) + torch.stack([d.sum(0), d.square().sum(0), pi.sum(0)])
        n += len(q)
    return {base: {'mean': first[base] + d, 'variance': (squares - d.square()).clamp_min(0),
                   'pi': pi} for base, (d, squares, pi) in ((k, s / n) for k, s in sums.items())}


def by_gates(params, found):
    """Score channels by their mean pi, of `statistics` -> {set: (C,)}."""
    return {conv: found[base]['pi'].abs() for conv, base in gated_sets(params).items()}


@torch.no_grad()
def make_static(params, found, delta_s):
    """Return the net in which channels whose q has a variance of at most `delta_s`, in `found` of
    `statistics`, have one scale for all images, at first the mean of q. They stay static."""
    params = dict(params)
    for base in gates(params):
        scale, dynamic = (params[f'{base}.gate.{k}'] for k in ('scale', 'dynamic'))
        still = (dynamic > 0) & (found[base]['variance'] <= delta_s)
        new = torch.where(still, found[base]['mean'].to(scale.dtype), scale)
        params[f'{base}.gate.scale'] = new.requires_grad_(scale.requires_grad)
        params[f'{base}.gate.dynamic'] = torch.where(still, 0, dynamic)
    return params


def with_density(params, density):
    """Return the net whose gates let through that part of their unmasked channels for an image."""
    return params | {f'{base}.gate.density': torch.full_like(params[f'{base}.gate.density'],
                                                             density) for base in gates(params)}


# ---- multiply-adds ------------------------------------------------------------------------------

def shares(params, taps):
    """Return the part of each layer's multiply-adds that is computed for each image, by the pi of
    all gates in `taps` -> {key: (B,)}.

    A channel whose pi is 0 costs nothing where it is made, in the depthwise convolution after that
    (which gives the same values everywhere and for all images), and where it is read.
    """
    found, sets = {}, architecture_of(params).channels
    for conv, base in gated_sets(params).items():
        part = (taps[f'{base}.gate'] != 0).double().mean(1)
        for layer in (*sets[conv].makers, *sets[conv].readers):
            key = weight_of(params, layer)
            found[key] = found.get(key, 1) * part
    return found


@torch.no_grad()
def dynamic_macs(f, params, batches, size):
    """Return the multiply-adds that gates leave in an image of size x size pixels, the mean over
    batches of inputs (B, 3, H, W). The predictors count in full."""
    full, means = facts.multiply_adds(f, params, size), []
    if not gates(params):
        return float(full)
    spent = channels.macs_of_filters(params, channels.areas(f, params, size))
    for inputs in batches:
        taps = dict.fromkeys(f'{base}.gate' for base in gates(params))
        f(inputs, params, False, taps=taps)
        means.append(full - sum(spent[k] * (1 - s) for k, s in shares(params, taps).items()))
    return float(torch.cat(means).mean())
