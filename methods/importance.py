"""What channels are worth: the loss without each of them, and how well scores rank them by it."""
import math
from statistics import mean

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from methods import channels, gates
from weights.architecture import weight_of

IMAGES, SAMPLE = 256, 16    # images, and channels of each set, at most, that are looked at


@torch.no_grad()
def mean_loss(f, params, batches):
    """Return the mean cross-entropy over batches (inputs, labels), in evaluation mode."""
    return float(torch.cat([F.cross_entropy(f(x, params, False)[0], y, reduction='none')
                            for x, y in batches]).mean())


def true_costs(f, params, chosen, batches):
    """Return by how much the loss rises when a channel alone is `channels.masked`, for the channels
    `chosen`, {set: their indices (n,)}, over a list of batches (inputs, labels) -> {set: (n,)}."""
    def cost(conv, channel):
        rest = torch.arange(len(params[weight_of(params, conv)]))
        return mean_loss(f, channels.masked(params, {conv: rest[rest != channel]}), batches) - whole

    whole = mean_loss(f, params, batches)
    return {conv: torch.tensor([cost(conv, c) for c in numbers.tolist()])
            for conv, numbers in chosen.items()}


def correlations(scores, costs, chosen):
    """Return Spearman's rank correlation of scores {set: (C,)} with the true costs of the `chosen`
    channels, {set: (n,)} -> (the mean over sets, that over all channels). It is zero where one of
    them does not vary."""
    def rank(a, b):
        r = float(spearmanr(a, b)[0]) if len(a) > 1 and min(a.std(), b.std()) > 0 else 0.
        return 0. if math.isnan(r) else r

    pairs = [(scores[conv].detach().cpu()[chosen[conv]], cost) for conv, cost in costs.items()]
    return mean(rank(*p) for p in pairs), rank(*map(torch.cat, zip(*pairs, strict=True)))


def print_correlations(f, params, batches):
    """Print how well the scores of AFS (of a net with gates), magnitude and random ones rank some
    channels of each set by their true costs, on a list of batches (inputs, labels)."""
    scores = {'magnitude': channels.by_magnitude(params), 'random': channels.by_chance(params, 0)}
    if gates.gates(params):
        found = gates.statistics(f, params, (x for x, _ in batches))
        scores = {'afs': gates.by_gates(params, found)} | scores
    order = channels.by_chance(params, 1)      # another seed than that of the scores
    sets = set.intersection(*map(set, scores.values()))
    chosen = {conv: channels.best(s, SAMPLE) for conv, s in order.items() if conv in sets}
    costs = true_costs(f, params, chosen, batches)
    print(f'rank correlation with the rise of the loss when a channel alone is masked, of '
          f'{sum(map(len, chosen.values()))} channels, on {sum(len(y) for _, y in batches)} images '
          f'(mean over layers, over all channels):')
    for name, s in scores.items():
        print('{:>10} {:5.2f} {:5.2f}'.format(name, *correlations(s, costs, chosen)))
