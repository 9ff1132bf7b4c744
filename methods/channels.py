"""Channels that can be pruned: how they are masked and cut out, how ranked, which are kept.

A set of channels is a `Channels` of `architecture_of(params).channels`, and is called by the
convolution that makes them. `keep` is {set: indices of the channels that stay}.
"""
import bisect
import math

import torch

import utils
from utils import InputError
from weights import facts
from weights.architecture import architecture_of, convolutions, weight_of

# ---- masking and cutting ------------------------------------------------------------------------

def made_and_read(params, channel_set):
    """Return the keys of the entries along whose first dimension a set of channels lies, and of
    those along whose second dimension it does."""
    made = [key for k in channel_set.makers for key in (weight_of(params, k), f'{k}.bias')]
    made += [k for base in channel_set.norms for k, v in params.items()
             if k.startswith(base + '.') and v.ndim]
    # the gate after a reader has the channels as inputs; in pre-activation nets bn_of gives the
    # name of the channels' own normalisation instead
    read = [key for k in channel_set.readers
            for key in (weight_of(params, k), f'{utils.bn_of(k)}.gate.weight')]
    return [k for k in made if k in params], [k for k in read if k in params and k not in made]


@torch.no_grad()
def cut(params, keep):
    """Return the net with only the channels `keep` of its sets, a smaller dict."""
    params, sets = dict(params), architecture_of(params).channels
    for conv, kept in keep.items():
        for dim, keys in enumerate(made_and_read(params, sets[conv])):
            for key in keys:
                v = params[key]
                params[key] = v.index_select(dim, kept.to(v.device)).requires_grad_(v.requires_grad)
    return params


def maskable(params, channel_set):
    """Return the keys of the entries that are zero for a masked channel of a set: its filters and
    biases, and scales, shifts and gates after them, but no statistics."""
    return [k for k in made_and_read(params, channel_set)[0] if not k.endswith(('_mean', '_var'))]


@torch.no_grad()
def masked(params, keep):
    """Return the net with zeros for the channels of `keep`'s sets that are not named there. They
    stay zero in training, as all of their gradients are zero."""
    params, sets = dict(params), architecture_of(params).channels
    for conv, kept in keep.items():
        for key in maskable(params, sets[conv]):
            v, new = params[key], torch.zeros_like(params[key])
            new[kept] = v[kept]
            params[key] = new.requires_grad_(v.requires_grad)
    return params


def unmasked(params):
    """Return the channels that are not `masked`, of the sets in which some are, as `keep`; of a set
    that is masked as a whole, the first one."""
    keep = {}
    for conv, channel_set in architecture_of(params).channels.items():
        entries = (params[key] for key in maskable(params, channel_set))
        on = torch.stack([v.reshape(len(v), -1).any(1) for v in entries]).any(0)
        if not on.all():
            keep[conv] = on.nonzero()[:, 0] if on.any() else torch.zeros(1).long()
    return keep


# ---- scores -------------------------------------------------------------------------------------

@torch.no_grad()
def by_magnitude(params):
    """Score channels by the mean absolute value of their filters times the absolute scale of their
    normalisation, if it has one -> {set: (C,)}. Where a depthwise convolution hands the channels
    on, that is multiplied by the same for it."""
    def magnitude(conv, norm):
        size = params[weight_of(params, conv)].abs().mean((1, 2, 3))
        scales = (params.get(f'{norm}.{k}') for k in ('weight', 'gate.scale', 'a'))
        return math.prod((v.to(size.device).abs() for v in scales if v is not None), start=size)

    return {conv: math.prod(map(magnitude, channel_set.makers, channel_set.norms))
            for conv, channel_set in architecture_of(params).channels.items()}


def by_chance(params, seed):
    """Score channels at random -> {set: (C,)}."""
    rng = torch.Generator().manual_seed(seed)
    return {conv: torch.rand(len(params[weight_of(params, conv)]), generator=rng)
            for conv in architecture_of(params).channels}


def masked_lowest(params, scores):
    """Return scores {set: (C,)} of zero or more with those of `masked` channels below all
    others."""
    found = {conv: s.double().cpu() + 1e-12 for conv, s in scores.items()}
    for conv, kept in unmasked(params).items():
        if conv in found:
            kept = kept.cpu()
            found[conv] = torch.zeros_like(found[conv]).index_copy(0, kept, found[conv][kept])
    return found


def of_trained(params, scores):
    """Return the scores {set: (C,)} of the sets whose filters are trained: frozen ones stay."""
    return {conv: s for conv, s in scores.items() if params[weight_of(params, conv)].requires_grad}


def ranked(scores):
    """Return the set of each channel, as a number among `scores`, in the order in which channels
    are pruned: by their rank within the set, so that all sets lose the same part of their channels.

    Scores of different layers cannot be compared: taken per multiply-add, they would cost the first
    layers of a MobileNetV2, where the loss of a channel hurts most, nearly all of their channels.
    """
    ranks = [(1 + s.argsort(stable=True).argsort()).double().cpu() / len(s)
             for s in scores.values()]
    owners = torch.cat([torch.full_like(r, i) for i, r in enumerate(ranks)]).long()
    return owners[torch.cat(ranks).argsort(stable=True)]


def best(scores, n):
    """Return the sorted indices of the n largest of the scores (C,)."""
    return scores.cpu().argsort(descending=True, stable=True)[:n].sort().values


# ---- multiply-adds ------------------------------------------------------------------------------

def areas(f, params, size):
    """Count the positions that each filter bank is applied at, in an image of size x size pixels
    -> {key: number}."""
    taps = dict.fromkeys(convolutions(params))
    f(*facts.on_meta(params, size), False, taps=taps)
    return {weight_of(params, k): x[0, 0].numel() for k, x in taps.items() if x is not None}


def macs_of_filters(params, positions):
    """Count the multiply-adds of each filter bank by its `areas`, and of each matrix, which is
    applied once -> {key: number}. Their sum is `facts.multiply_adds`, without running the net."""
    return {k: v.numel() * positions.get(k, 1) for k, v in params.items() if v.ndim > 1}


def to_target(f, params, scores, size, target, multiple=1):
    """Choose the channels to keep, by scores {set: (C,)}, for `target` times the net's
    multiply-adds on images of size x size pixels -> `keep`.

    Channels are pruned in the order of `ranked`; of all the nets on the way, the one nearest to the
    target is taken. The number kept of a set is rounded to a `multiple`, one at least, and is at
    most all of them. InputError, if there are no sets, or the target cannot be reached.
    """
    if not scores:
        raise InputError('this net has no channels that could be pruned')
    positions, order, blank = areas(f, params, size), ranked(scores), facts.on_meta(params)[1]
    whole = sum(macs_of_filters(blank, positions).values())

    def kept(n):
        left = torch.bincount(order[n:], minlength=len(scores)).tolist()
        return {conv: best(s, min(len(s), max(1, round(c / multiple)) * multiple))
                for (conv, s), c in zip(scores.items(), left, strict=True)}

    def part(n):
        return sum(macs_of_filters(cut(blank, kept(n)), positions).values()) / whole

    n = bisect.bisect_left(range(len(order)), -target, key=lambda n: -part(n))
    n = min((k for k in (n - 1, n) if k >= 0), key=lambda k: abs(part(k) - target))
    if part(len(order)) > target + .02:
        raise InputError(f'{target:g} of the multiply-adds cannot be reached: only channels inside '
                         f'blocks are pruned' + f', to multiples of {multiple}' * (multiple > 1) +
                         f', which leaves {part(len(order)):.3f} at least')
    return kept(n)
