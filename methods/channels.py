"""Channels that can be pruned: what they cost, scores, which to keep, masking and cutting.

The sets of channels are those of `architecture_of(params).channels`, and are called by the
convolution that gives them. `keep` is {set: indices of the channels that stay}.
"""
import bisect
import math

import torch

import utils
from utils import InputError
from weights import facts
from weights.architecture import architecture_of, convolutions, weight_of

# ---- sets of channels ---------------------------------------------------------------------------

def entries(params, its):
    """Where channels, `its` of the architecture's, are: [(key, dimension)]."""
    found = [(weight_of(params, k), 0) for k in its.makers]
    found += [(weight_of(params, k), 1) for k in its.readers]
    found += [(f'{k}.bias', 0) for k in its.makers if f'{k}.bias' in params]
    for base in its.norms:
        found += [(k, 0) for k, v in params.items() if k.startswith(base + '.') and v.ndim]
    # the gates of what is behind the readers see them too; in nets of pre-activation the name of a
    # reader's would be that of their own normalisation
    gates = (f'{base}.gate.weight' for base in map(utils.bn_of, its.readers)
             if base not in its.norms)
    return found + [(k, 1) for k in gates if k in params]


@torch.no_grad()
def cut(params, keep):
    """The net without the channels of `keep`'s sets that it does not name; same function."""
    params, sets = dict(params), architecture_of(params).channels
    for conv, kept in keep.items():
        for key, dim in entries(params, sets[conv]):
            v = params[key]
            params[key] = v.index_select(dim, kept.to(v.device)).requires_grad_(v.requires_grad)
    return params


def makers_of(params, its):
    """The keys of what gives channels, along their first dimension: filters, normalisation and
    gate, without running statistics."""
    return [key for key, dim in entries(params, its)
            if dim == 0 and not key.endswith(('_mean', '_var'))]


@torch.no_grad()
def masked(params, keep):
    """The net in which those channels are zero instead, and stay it in training (all gradients are
    zero): their filters, their normalisation's scale and shift, and their gate."""
    params, sets = dict(params), architecture_of(params).channels
    for conv, kept in keep.items():
        for key in makers_of(params, sets[conv]):
            v, new = params[key], torch.zeros_like(params[key])
            new[kept] = v[kept]
            params[key] = new.requires_grad_(v.requires_grad)
    return params


def unmasked(params):
    """The channels that are not `masked`, of the sets in which some are: `keep`."""
    keep = {}
    for conv, its in architecture_of(params).channels.items():
        found = (params[key] for key in makers_of(params, its))
        on = torch.stack([v.reshape(len(v), -1).any(1) for v in found]).any(0)
        if not on.all():
            keep[conv] = on.nonzero()[:, 0] if on.any() else torch.zeros(1).long()
    return keep


# ---- scores -------------------------------------------------------------------------------------

def scale_of(params, base):
    """The scale of a normalisation, (C,); 1 where there is none, for BN that was folded away."""
    found = (params.get(f'{base}.{k}') for k in ('weight', 'gate.scale', 'a'))
    return next((v for v in found if v is not None), torch.ones(()))


@torch.no_grad()
def by_magnitude(params):
    """Mean absolute value of a channel's filter times the absolute scale of its normalisation;
    where a depthwise convolution hands channels on, times the same of that: {set: (C,)}."""
    def magnitude(conv, norm):
        size = params[weight_of(params, conv)].abs().mean((1, 2, 3))
        return size * scale_of(params, norm).to(size.device).abs()

    return {conv: math.prod(map(magnitude, its.makers, its.norms))
            for conv, its in architecture_of(params).channels.items()}


def by_chance(params, seed):
    """Random ones: {set: (C,)}."""
    rng = torch.Generator().manual_seed(seed)
    return {conv: torch.rand(len(params[weight_of(params, conv)]), generator=rng)
            for conv in architecture_of(params).channels}


def masked_lowest(params, scores):
    """The scores, zero or more, so that what is `masked` already has less than all else."""
    on = {conv: torch.ones(len(s)) for conv, s in scores.items()}
    for conv, kept in unmasked(params).items():
        on[conv] = torch.zeros(len(on[conv])).index_fill_(0, kept.cpu(), 1)
    return {conv: on[conv] * (s.double().cpu() + 1e-12) for conv, s in scores.items()}


def of_trained(params, scores):
    """The scores of the sets whose filters are trained: what is frozen stays."""
    frozen = all(not v.requires_grad for v in params.values())      # a net that is not trained
    return {conv: s for conv, s in scores.items()
            if frozen or params[weight_of(params, conv)].requires_grad}


# ---- multiply-adds ------------------------------------------------------------------------------

def areas(f, params, size):
    """The positions that each filter bank is applied at, in an image of size x size pixels:
    {key: number}."""
    taps = dict.fromkeys(convolutions(params))
    f(*facts.on_meta(params, size), False, taps=taps)
    return {weight_of(params, k): x[0, 0].numel() for k, x in taps.items() if x is not None}


def costs(params, positions):
    """Multiply-adds of each filter bank, and each matrix, which is applied once: {key: number}."""
    return {k: v.numel() * positions.get(k, 1) for k, v in params.items() if v.ndim > 1}


def macs(params, positions):
    """Multiply-adds of all layers, as `facts.multiply_adds` counts them in a run."""
    return sum(costs(params, positions).values())


def ranked(scores):
    """The numbers, among `scores`, of the sets of all channels, the first to be cut first: by their
    rank within the set, so that all sets lose the same part of their channels.

    Scores of different layers do not compare: per multiply-add, they cost the first layers of a
    MobileNetV2 most of their channels, the loss of one of which is what hurts most.
    """
    ranks = [(1 + s.argsort(stable=True).argsort()).double().cpu() / len(s)
             for s in scores.values()]
    owners = torch.cat([torch.full_like(r, i) for i, r in enumerate(ranks)]).long()
    return owners[torch.cat(ranks).argsort(stable=True)]


def best(scores, n):
    """The sorted indices of the n largest scores."""
    return scores.cpu().argsort(descending=True, stable=True)[:n].sort().values


def to_target(f, params, scores, size, target, multiple=1):
    """The channels to keep, by {set: scores (C,)}, for `target` times the net's multiply-adds on
    images of size x size pixels: `keep`.

    Channels go in the order of `ranked`; at least one of each set stays. Of a `multiple`, the
    number of channels is the nearest multiple above zero (at most those that there are). Of the
    nets on the way this is the one that is nearest to the target.
    """
    check_part('--macs_target', target)
    if not scores:
        raise InputError('this net has no channels that could be cut')
    positions = areas(f, params, size)
    order = ranked(scores)
    whole, blank = macs(params, positions), facts.on_meta(params)[1]

    def kept(n):
        left = torch.bincount(order[n:], minlength=len(scores)).tolist()
        return {conv: best(s, min(len(s), max(1, round(c / multiple)) * multiple))
                for (conv, s), c in zip(scores.items(), left, strict=True)}

    def part(n):
        return macs(cut(blank, kept(n)), positions) / whole

    n = bisect.bisect_left(range(len(order)), -target, key=lambda n: -part(n))
    n = min((k for k in (n - 1, n) if k >= 0), key=lambda k: abs(part(k) - target))
    if part(len(order)) > target + .02:
        raise InputError(f'{target:g} of the multiply-adds cannot be reached: only channels inside '
                         f'of blocks are cut' + f', to multiples of {multiple}' * (multiple > 1) +
                         f', which leaves {part(len(order)):.3f} at least')
    return kept(n)


def check_part(name, value):
    if not 0 < value <= 1:
        raise InputError(f'{name} is {value:g}: give a number above 0, at most 1')
