"""What channels are worth: the loss without each of them, and how well the scores of pruning rank
it."""
import math
from statistics import mean

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from methods import channels, gates
from weights.architecture import weight_of

IMAGES, SAMPLE = 256, 16    # held-out images, and channels of each set, at most, for `report`


@torch.no_grad()
def loss_of(f, params, batches):
    """The mean cross-entropy, in evaluation mode, over batches of (inputs (B, 3, H, W), labels)."""
    return float(torch.cat([F.cross_entropy(f(x, params, False)[0], y, reduction='none')
                            for x, y in batches]).mean())


def true_costs(f, params, chosen, batches):
    """By how much the loss rises when a channel alone is `channels.masked`, for the channels
    `chosen`, {set: their indices (n,)}, over a list of batches (inputs, labels): {set: (n,)}."""
    def cost(conv, channel):
        rest = torch.arange(len(params[weight_of(params, conv)]))
        return loss_of(f, channels.masked(params, {conv: rest[rest != channel]}), batches) - whole

    whole = loss_of(f, params, batches)
    return {conv: torch.tensor([cost(conv, c) for c in numbers.tolist()])
            for conv, numbers in chosen.items()}


def correlations(scores, costs, chosen):
    """Spearman's rank correlation of scores {set: (C,)} with the true costs of the `chosen`
    channels, {set: (n,)} -> (the mean over sets, that over all channels). What does not vary has
    none, and counts as zero."""
    def rank(a, b):
        r = float(spearmanr(a, b)[0]) if len(a) > 1 and min(a.std(), b.std()) > 0 else 0.
        return 0. if math.isnan(r) else r

    pairs = [(scores[conv].detach().cpu()[chosen[conv]], cost) for conv, cost in costs.items()]
    return mean(rank(*p) for p in pairs), rank(*map(torch.cat, zip(*pairs, strict=True)))


def report(f, params, batches):
    """Print how well AFS (of a net with gates), magnitude and chance rank the channels of each set
    by their true costs, on a list of batches (inputs, labels)."""
    scores = {'magnitude': channels.by_magnitude(params), 'random': channels.by_chance(params, 0)}
    if gates.gates(params):
        found = gates.statistics(f, params, (x for x, _ in batches))
        scores = {'afs': {conv: found[base]['pi'].abs()
                          for conv, base in gates.gated_sets(params).items()}} | scores
    order = channels.by_chance(params, 1)      # another seed than that of the scores
    sets = set.intersection(*map(set, scores.values()))
    chosen = {conv: channels.best(s, SAMPLE) for conv, s in order.items() if conv in sets}
    costs = true_costs(f, params, chosen, batches)
    print(f'rank correlation with the rise of the loss when a channel alone is masked, of '
          f'{sum(map(len, chosen.values()))} channels, on {sum(len(y) for _, y in batches)} images '
          f'(mean over layers, over all channels):')
    for name, s in scores.items():
        print('{:>10} {:5.2f} {:5.2f}'.format(name, *correlations(s, costs, chosen)))
