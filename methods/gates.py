"""Gates: scales of channels that are predicted for each image (AFS).

  AFS: Wang et al., 'Pay Attention to Features, Transfer Learn Faster CNNs', ICLR 2020,
  https://openreview.net/forum?id=ryxyCeHtPB
  FBS: Gao et al., 'Dynamic Channel Pruning: Feature Boosting and Suppression',
  https://arxiv.org/abs/1810.05331

AFS follows secondary sources: its paper's text was not at hand. A gate is entries of the net's dict
under '<normalisation>.gate'; `utils.gated` computes it.
"""
import torch

import utils
from methods import channels
from methods.channels import masked, weight_of
from utils import InputError
from weights import facts, folding
from weights.architecture import architecture_of

# ---- gates --------------------------------------------------------------------------------------

# What stands for a scale of zero in a gate, which would take the shift off as well.
TINY = 1e-30


def gates(params):
    """The names of the normalisations that have a gate."""
    return [k.removesuffix('.gate.weight') for k in params if k.endswith('.gate.weight')]


def gated_sets(params):
    """{set: the name of its gated normalisation}."""
    return {conv: its.norms[0] for conv, its in architecture_of(params).channels.items()
            if f'{its.norms[0]}.gate.weight' in params}


@torch.no_grad()
def with_gates(f, params, density=1.):
    """The net with a gate on each set of channels, in the batch normalisation of its (first)
    convolution's output, which loses its scale to it; `utils.gated` computes it.

    The entries are the predictor's `weight` (C, C_in), zeros, and `bias` (C,), the old scale's
    absolute value; `scale` (C,), the same, which is used where a channel is not `dynamic` (C,);
    `mask` (C,); `density` (). What is negative of the old scale moves into the convolution, so that
    at density 1 the net computes in evaluation mode what it did. InputError if no normalisation of
    the channels has statistics and a scale.
    """
    channels.check_part('density', density)
    used = set(folding.normalisations(f, params))
    for conv, its in architecture_of(params).channels.items():
        base = its.norms[0]
        if base in used and f'{base}.weight' in params and any(
                f'{base}.{kind}_mean' in params for kind in ('running', 'fixed')):
            params = with_gate(params, conv, base, density)
    if not gates(params):
        raise InputError('this net has no place for gates: they replace the scale of the batch '
                         'normalisation of channels inside of a block')
    return params


def with_gate(params, conv, base, density):
    weight, scale = weight_of(params, conv), params[f'{base}.weight']
    sign = torch.where(scale < 0, -1., 1.).to(scale.dtype)
    size, learnt = scale.abs().clamp_min(TINY), scale.requires_grad
    new = {'weight': scale.new_zeros(params[weight].shape[:2]), 'bias': size, 'scale': size.clone(),
           'dynamic': torch.ones_like(size), 'mask': torch.ones_like(size),
           'density': scale.new_tensor(density)}
    turned = {k: params[k] for k in (weight, f'{conv}.bias', f'{base}.running_mean',
                                     f'{base}.fixed_mean') if k in params}
    turned = {k: (v * sign.view(-1, *[1] * (v.ndim - 1))).requires_grad_(v.requires_grad)
              for k, v in turned.items()}
    return {**{k: v for k, v in params.items() if k != f'{base}.weight'}, **turned,
            **{f'{base}.gate.{k}': v.requires_grad_(learnt and not utils.is_statistic(f'.gate.{k}'))
               for k, v in new.items()}}


@torch.no_grad()
def statistics(f, params, batches):
    """What the gates do, over batches of inputs (B, 3, H, W), in evaluation mode: {normalisation:
    {'mean', 'variance': those of q; 'pi': the mean of pi; each (C,), in double precision}}."""
    sums, first, n = {}, {}, 0
    for inputs in batches:
        taps = dict.fromkeys(k for b in gates(params) for k in (f'{b}.gate', f'{b}.gate.q'))
        f(inputs, params, False, taps=taps)
        for base in gates(params):
            q, pi = taps[f'{base}.gate.q'].double(), taps[f'{base}.gate'].double()
            # sums of differences, so that what never varies has no variance
            d = q - first.setdefault(base, q[0])
            sums[base] = sums.get(base, 0) + torch.stack([d.sum(0), d.square().sum(0), pi.sum(0)])
        n += len(q)
    return {base: moments(s / n, first[base]) for base, s in sums.items()}


def moments(means, first):
    d, squares, pi = means
    return {'mean': first + d, 'variance': (squares - d.square()).clamp_min(0), 'pi': pi}


@torch.no_grad()
def make_static(params, found, delta_s):
    """The net in which channels whose q, by `found` (of `statistics`), has a variance of at most
    `delta_s` have a scale that is the same for all images: the mean of q, at first. None becomes
    dynamic again."""
    params = dict(params)
    for base in gates(params):
        scale, dynamic = (params[f'{base}.gate.{k}'] for k in ('scale', 'dynamic'))
        still = (dynamic > 0) & (found[base]['variance'] <= delta_s)
        new = torch.where(still, found[base]['mean'].to(scale.dtype), scale)
        params[f'{base}.gate.scale'] = new.requires_grad_(scale.requires_grad)
        params[f'{base}.gate.dynamic'] = torch.where(still, 0, dynamic)
    return params


def mask_to_target(f, params, found, size, target, multiple=1):
    """The net with the channels `masked` whose mean pi, by `found` (of `statistics`), is least, as
    `channels.to_target` says; `target` is a part of what the net takes once it is `settled`. What
    is masked already stays it."""
    scores = channels.masked_lowest(params, {conv: found[base]['pi'].abs() for conv, base in
                                       gated_sets(params).items()})
    keep = channels.to_target(f, settled(params), channels.of_trained(params, scores), size, target,
                              multiple)
    return masked(params, keep)


def settled(params, all_of_them=False):
    """The net with plain batch normalisation in place of gates that have no dynamic channels, or of
    all, as if they had none."""
    for base in gates(params):
        if all_of_them or not params[f'{base}.gate.dynamic'].any():
            params = without_gate(params, base)
    return params


@torch.no_grad()
def without_gate(params, base):
    scale, shift = params[f'{base}.gate.scale'], params[f'{base}.bias']
    shift = torch.where(scale == 0, 0, shift).requires_grad_(shift.requires_grad)
    return {**{k: v for k, v in params.items() if not k.startswith(f'{base}.gate.')},
            f'{base}.weight': scale, f'{base}.bias': shift}


def pruned(params):
    """The net without its masked channels, `settled`: a smaller dict, of the same logits."""
    return settled(channels.cut(params, channels.unmasked(params)))


# ---- what gates leave ---------------------------------------------------------------------------

def shares(params, taps):
    """Of each layer, the part of its multiply-adds that is done in each image: {key: (B,)}.

    A channel whose pi is 0 costs nothing where it is computed, in the depthwise convolution behind
    (what that gives is the same everywhere and for all images), and where it is read.
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
    """The mean over images, batches of inputs (B, 3, H, W), of the multiply-adds that gates leave
    in an image of size x size pixels; the predictors are counted in full."""
    full, means = facts.multiply_adds(f, params, size), []
    if not gates(params):
        return float(full)
    spent = channels.costs(params, channels.areas(f, params, size))
    for inputs in batches:
        taps = dict.fromkeys(f'{base}.gate' for base in gates(params))
        f(inputs, params, False, taps=taps)
        means.append(full - sum(spent[k] * (1 - s) for k, s in shares(params, taps).items()))
    return float(torch.cat(means).mean())


# ---- what is left -------------------------------------------------------------------------------

def plain(params):
    """The net as it was without gates and masks, but for values."""
    return settled(params, all_of_them=True)
