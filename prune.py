"""Gates, masks, and the removal of channels: from dict to dict.

  AFS: Wang et al., 'Pay Attention to Features, Transfer Learn Faster CNNs', ICLR 2020,
  https://openreview.net/forum?id=ryxyCeHtPB
  FBS: Gao et al., 'Dynamic Channel Pruning: Feature Boosting and Suppression',
  https://arxiv.org/abs/1810.05331

AFS follows secondary sources: its paper's text was not at hand. A set of channels is those between
two convolutions, where nothing else reads or adds to them, and is called by the convolution that
gives them; residual sums keep their width. `keep` is {set: indices of the channels that stay}.
"""
import bisect
import math
import re

import torch

import folding
import meta
import utils
from utils import InputError

# ---- sets of channels ---------------------------------------------------------------------------


def inner(params):
    """The channels that can be cut: {convolution: (convolutions whose outputs they are,
    convolutions or linear layers whose inputs they are)}.

    Those of all convolutions of a residual block but its last (ResNets, of either naming, and WRN);
    MobileNetV2's expanded ones, which a depthwise convolution hands on, but those of its first
    block, which is not expanded, and those before its last layer. None of other nets.
    """
    convs, sets = folding.convolutions(params), {}
    for conv in convs:
        following, hidden = after(conv), conv.removesuffix('.0.0')
        if following in convs:
            sets[conv] = [conv], [following]
        elif re.fullmatch(r'features\.\d+\.conv\.0\.0', conv) and f'{hidden}.1.0' in convs:
            sets[conv] = [conv, f'{hidden}.1.0'], [f'{hidden}.2']
        elif re.fullmatch(r'features\.[1-9]\d*\.0', conv) and 'classifier.1.weight' in params:
            wide = 'classifier.1.bottleneck.weight' in params
            sets[conv] = [conv], ['classifier.1.bottleneck' if wide else 'classifier.1']
    return sets


def after(conv):
    """What the next convolution of a residual block would be called; '' for others."""
    m = re.fullmatch(r'((?:group|layer)\d+\.\D*\d+\.conv)(\d)', conv)
    return f'{m[1]}{int(m[2]) + 1}' if m else ''


def norm_of(params, conv):
    """The name of the normalisation that works on the output of a convolution in a set: in nets of
    pre-activation that which is called as if it were behind the next one."""
    if 'bn.weight' in params and after(conv):
        return utils.bn_of(after(conv))
    if any(k.startswith('affine_last.') for k in params):
        return conv.replace('.conv0', '.affine1')
    return utils.bn_of(conv)


def weight_of(params, layer):
    """The key of a layer's filters or matrix."""
    return layer if layer in params else layer + '.weight'


def entries(params, conv):
    """Where the channels of a set are: [(key, dimension)]."""
    makers, readers = inner(params)[conv]
    found = [(weight_of(params, k), 0) for k in makers]
    found += [(weight_of(params, k), 1) for k in readers]
    found += [(f'{k}.bias', 0) for k in makers if f'{k}.bias' in params]
    for base in (norm_of(params, k) for k in makers):
        found += [(k, 0) for k, v in params.items() if k.startswith(base + '.') and v.ndim]
    gates = (f'{norm_of(params, k)}.gate.weight' for k in readers)
    return found + [(k, 1) for k in gates if k in params]


@torch.no_grad()
def cut(params, keep):
    """The net without the channels of `keep`'s sets that it does not name; same function."""
    params = dict(params)
    for conv, kept in keep.items():
        for key, dim in entries(params, conv):
            v = params[key]
            params[key] = v.index_select(dim, kept.to(v.device)).requires_grad_(v.requires_grad)
    return params


@torch.no_grad()
def masked(params, keep):
    """The net in which those channels are zero instead, and stay it in training (all gradients are
    zero): their filters, their normalisation's scale and shift, and their gate."""
    params = dict(params)
    for conv, kept in keep.items():
        for key, dim in entries(params, conv):
            if dim == 0 and not key.endswith(('_mean', '_var')):
                v, new = params[key], torch.zeros_like(params[key])
                new[kept] = v[kept]
                params[key] = new.requires_grad_(v.requires_grad)
    return params


# ---- scores -------------------------------------------------------------------------------------

def scale_of(params, base):
    """The scale of a normalisation, (C,); 1 where there is none, for BN that was folded away."""
    found = (params.get(f'{base}.{k}') for k in ('weight', 'gate.scale', 'a'))
    return next((v for v in found if v is not None), torch.ones(()))


@torch.no_grad()
def by_magnitude(params):
    """Mean absolute value of a channel's filter times the absolute scale of its normalisation;
    where a depthwise convolution hands channels on, times the same of that: {set: (C,)}."""
    def magnitude(conv):
        size = params[weight_of(params, conv)].abs().mean((1, 2, 3))
        return size * scale_of(params, norm_of(params, conv)).to(size.device).abs()

    return {conv: math.prod(map(magnitude, makers)) for conv, (makers, _) in inner(params).items()}


def by_chance(params, seed):
    """Random ones: {set: (C,)}."""
    rng = torch.Generator().manual_seed(seed)
    return {conv: torch.rand(len(params[weight_of(params, conv)]), generator=rng)
            for conv in inner(params)}


# ---- multiply-adds ------------------------------------------------------------------------------

def areas(f, params, size):
    """The positions that each filter bank is applied at, in an image of size x size pixels:
    {key: number}."""
    taps = dict.fromkeys(folding.convolutions(params))
    f(*meta.on_meta(params, size), False, taps=taps)
    return {weight_of(params, k): x[0, 0].numel() for k, x in taps.items() if x is not None}


def costs(params, positions):
    """Multiply-adds of each filter bank, and each matrix, which is applied once: {key: number}."""
    return {k: v.numel() * positions.get(k, 1) for k, v in params.items() if v.ndim > 1}


def channel_costs(params, positions):
    """Multiply-adds that one channel takes part in, in all layers that it goes through, while no
    other is cut: {set: number}."""
    spent = costs(params, positions)
    return {conv: sum(spent[key] / params[key].shape[dim] for key, dim in entries(params, conv)
                      if key in spent) for conv in inner(params)}


def ranked(params, scores, positions):
    """The numbers, among `scores`, of the sets of all channels, the first to be cut first.

    By score per multiply-add; scores are divided by their mean over the set, so that layers
    compare.
    """
    spent = channel_costs(params, positions)
    ranks = [s.double().cpu() / max(float(s.double().mean()), 1e-300) / spent[conv]
             for conv, s in scores.items()]
    owners = torch.cat([torch.full_like(r, i) for i, r in enumerate(ranks)]).long()
    return owners[torch.cat(ranks).argsort(stable=True)]


def best(scores, n):
    """The sorted indices of the n largest scores."""
    return scores.cpu().argsort(descending=True, stable=True)[:n].sort().values


def to_target(f, params, scores, size, target, multiple=1):
    """The channels to keep, by {set: scores (C,)}, for `target` times the net's multiply-adds on
    images of size x size pixels: `keep`.

    Channels go in the order of `ranked`, at least one of each set stays; of a `multiple`, the
    number of channels is the nearest multiple above zero (at most those that there are). Of the
    nets on the way this is the one that is nearest to the target.
    """
    check_target(scores, target)
    blank, positions = meta.on_meta(params)[1], areas(f, params, size)
    order = ranked(params, scores, positions)

    def kept(n):
        left = torch.bincount(order[n:], minlength=len(scores)).tolist()
        return {conv: best(s, min(len(s), max(1, round(c / multiple)) * multiple))
                for (conv, s), c in zip(scores.items(), left, strict=True)}

    def part(n):
        return sum(costs(cut(blank, kept(n)), positions).values()) / sum(
            costs(params, positions).values())

    n = bisect.bisect_left(range(len(order)), -target, key=lambda n: -part(n))
    keep = kept(min((k for k in (n - 1, n) if k >= 0), key=lambda k: abs(part(k) - target)))
    # counted as the net is run, whatever the above left out
    counted = meta.multiply_adds(f, cut(blank, keep), size) / meta.multiply_adds(f, params, size)
    if counted > target + .02:
        raise InputError(f'{target:g} of the multiply-adds cannot be reached: only channels inside '
                         f'of blocks are cut, which leaves {part(len(order)):.3f}')
    return keep


def check_target(scores, target):
    if not scores:
        raise InputError('this net has no channels that could be cut')
    if not 0 < target <= 1:
        raise InputError(f'{target:g} is no part of the multiply-adds: above 0, at most 1')


# ---- gates --------------------------------------------------------------------------------------

# What stands for a scale of zero in a gate, which would take the shift off as well.
TINY = 1e-30


def gates(params):
    """The names of the normalisations that have a gate."""
    return [k.removesuffix('.gate.weight') for k in params if k.endswith('.gate.weight')]


def gated_sets(params):
    """{set: the name of its gated normalisation}."""
    names = {conv: norm_of(params, conv) for conv in inner(params)}
    return {conv: base for conv, base in names.items() if f'{base}.gate.weight' in params}


@torch.no_grad()
def with_gates(f, params, density=1.):
    """The net with a gate on each set of channels, in the batch normalisation behind its (first)
    convolution, which loses its scale to it; `utils.gated` computes it.

    The entries are the predictor's `weight` (C, C_in), zeros, and `bias` (C,), the old scale's
    absolute value; `scale` (C,), the same, which is used where a channel is not `dynamic` (C,);
    `mask` (C,); `density` (). What is negative of the old scale moves into the convolution, so that
    at density 1 the net computes in evaluation mode what it did. A WRN gets none: its
    normalisations are not applied with a convolution.
    """
    if not 0 < density <= 1:
        raise InputError(f'{density:g} is no density: above 0, at most 1')
    used = set(folding.normalisations(f, params))
    for conv in inner(params):
        base = norm_of(params, conv)
        if base in used and base == utils.bn_of(conv) and f'{base}.weight' in params and any(
                f'{base}.{kind}_mean' in params for kind in ('running', 'fixed')):
            params = with_gate(params, conv, base, density)
    if not gates(params):
        raise InputError('this net has no place for gates: they replace the scale of batch '
                         'normalisation that follows a convolution inside of a block')
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
def update(params, found, delta_s):
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
    `to_target` says. What is masked already stays it."""
    # what is left comes before what is masked, even if it is never on
    scores = {conv: found[base]['pi'].abs() + 1e-12 * params[f'{base}.gate.mask']
              for conv, base in gated_sets(params).items()}
    return masked(params, to_target(f, params, scores, size, target, multiple))


@torch.no_grad()
def removed(params):
    """The net without its masked channels, and with plain batch normalisation in place of gates
    that have no dynamic ones: a smaller dict, of the same logits."""
    masks = {conv: params[f'{base}.gate.mask'] for conv, base in gated_sets(params).items()}
    params = cut(params, {conv: m.nonzero()[:, 0] for conv, m in masks.items() if not m.all()})
    for base in gates(params):
        if not params[f'{base}.gate.dynamic'].any():
            params = without_gate(params, base)
    return params


def without_gate(params, base):
    scale, shift = params[f'{base}.gate.scale'], params[f'{base}.bias']
    shift = torch.where(scale == 0, 0, shift).requires_grad_(shift.requires_grad)
    return {**{k: v for k, v in params.items() if not k.startswith(f'{base}.gate.')},
            f'{base}.weight': scale, f'{base}.bias': shift}


# ---- what gates leave ---------------------------------------------------------------------------

def shares(params, taps):
    """Of each layer, the part of its multiply-adds that is done in each image: {key: (B,)}.

    A channel whose pi is 0 costs nothing where it is computed, in the depthwise convolution behind
    (what that gives is the same everywhere and for all images), and where it is read.
    """
    found = {}
    for conv, base in gated_sets(params).items():
        part = (taps[f'{base}.gate'] != 0).double().mean(1)
        makers, readers = inner(params)[conv]
        for layer in (*makers, *readers):
            key = weight_of(params, layer)
            found[key] = found.get(key, 1) * part
    return found


@torch.no_grad()
def dynamic_macs(f, params, batches, size):
    """The mean over images, batches of inputs (B, 3, H, W), of the multiply-adds that gates leave
    in an image of size x size pixels; the predictors are counted in full."""
    full, means = meta.multiply_adds(f, params, size), []
    if not gates(params):
        return float(full)
    spent = costs(params, areas(f, params, size))
    for inputs in batches:
        taps = dict.fromkeys(f'{base}.gate' for base in gates(params))
        f(inputs, params, False, taps=taps)
        means.append(full - sum(spent[k] * (1 - s) for k, s in shares(params, taps).items()))
    return float(torch.cat(means).mean())
