"""What channels are worth: true costs, rank correlations, and channels that are known to be
useless."""
import functools
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import call, write_net

import finetune
import nets
from methods import channels, gates, importance
from weights.architecture import architecture_of, weight_of

PATTERNS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def batch(rng, n=32):
    """Images of four classes, each a pattern under noise -> (inputs, labels)."""
    y = torch.randint(len(PATTERNS), (n,), generator=rng)
    return PATTERNS[y] + 5 * torch.randn(n, 3, 8, 8, generator=rng), y


def trained(f, params, steps, lr=.1):
    """The net after steps of SGD."""
    rng = torch.Generator().manual_seed(1)
    params = {k: v.detach().clone().requires_grad_(v.requires_grad) for k, v in params.items()}
    sgd = torch.optim.SGD([v for v in params.values() if v.requires_grad], lr, .9)
    for _ in range(steps):
        x, y = batch(rng)
        sgd.zero_grad()
        F.cross_entropy(f(x, params, True)[0], y).backward()
        sgd.step()
    return params


def with_more(params, more):
    """The net with half as many channels again in each set: more(key, kind, v, new, dim) gives what
    takes the place of the entry v, of which `new` is the first half; kind: 'made', 'read' or
    ''."""
    params = dict(params)
    for its in architecture_of(params).channels.values():
        made, read = ([weight_of(params, k) for k in names] for names in (its.makers, its.readers))
        for dim, keys in enumerate(channels.made_and_read(params, its)):
            for key in keys:
                v = params[key].detach()
                new = v.narrow(dim, 0, v.shape[dim] // 2)
                kind = 'made' if key in made else 'read' if key in read else ''
                params[key] = more(key, kind, v, new, dim).requires_grad_(params[key].requires_grad)
    return params


def with_noise(params, scale):
    """The net with more channels: filters of noise, a normalisation of `scale` times the mean of
    the others' scales, which nothing reads yet."""
    rng = torch.Generator().manual_seed(2)

    def more(key, kind, v, new, dim):
        if kind == 'made':
            new = torch.randn(new.shape, generator=rng) * v.std()
        elif kind == 'read':
            new = torch.zeros_like(new)
        elif key.endswith('.weight'):
            new = torch.full_like(new, scale * v.abs().mean())
        return torch.cat([v, new], dim)

    return with_more(params, more)


def with_copies(params):
    """The net with a copy of half of its channels; those that read them give each half of the
    weight."""
    def more(key, kind, v, new, dim):
        if kind != 'read':
            return torch.cat([v, new], dim)
        rest = v.narrow(dim, new.shape[dim], v.shape[dim] - new.shape[dim])
        return torch.cat([new / 2, rest, new / 2], dim)

    return with_more(params, more)


def above(scores, counts):
    """The part of all pairs of one of the first `count` channels of a set and one of the rest in
    which the score of the first is higher."""
    pairs = [s[:counts[c], None] > s[None, counts[c]:] for c, s in scores.items()]
    return float(torch.cat([p.flatten() for p in pairs]).double().mean())


@functools.cache
def made(arch):
    """A trained net (f, params), and how many channels each set has."""
    torch.manual_seed(0)
    f, params = nets.new_net(arch, 4)
    params = trained(f, params, 60)
    return f, params, {c: len(params[weight_of(params, c)]) for c in
                       architecture_of(params).channels}


@pytest.fixture
def small():
    return made('cifar_resnet-8-1')


def seen():
    return [batch(torch.Generator().manual_seed(3), 128)]


def afs(f, params):
    found = gates.statistics(f, params, (x for x, _ in seen()))
    return gates.by_gates(params, found)


def test_gates_tell_useless_channels_once_they_are_trained(small):
    f, params, counts = small
    start = gates.with_gates(with_noise(params, 1))
    assert above(channels.by_magnitude(start), counts) < .6 and above(afs(f, start), counts) < .6
    assert above(afs(f, trained(f, start, 120)), counts) > .8


@pytest.mark.parametrize('arch, scale', [('cifar_resnet-8-1', .1), ('wrn-10-1', .03)])
def test_quiet_noise_goes_first_by_magnitude_and_gates(arch, scale):
    """A WRN's own scales begin between 0 and 1, so that some are small, too."""
    f, params, counts = made(arch)
    noisy = with_noise(params, scale)
    keep = channels.to_target(f, noisy, channels.by_magnitude(noisy), 8, .5)
    assert all((kept < counts[c]).all() for c, kept in keep.items())
    gated = trained(f, gates.with_gates(noisy), 20)
    assert above(channels.by_magnitude(gated), counts) > .95
    assert above(afs(f, gated), counts) > .95


def test_of_two_identical_channels_neither_is_singled_out():
    """The net computes the same with a copy of half of its channels; scores of both stay equal."""
    f, params, counts = made('wrn-10-1')
    doubled = with_copies(params)
    x, _ = seen()[0]
    torch.testing.assert_close(f(x, doubled, False)[0], f(x, params, False)[0], rtol=0, atol=1e-4)
    gated = trained(f, gates.with_gates(doubled), 20)
    for scores in (channels.by_magnitude(gated), afs(f, gated)):
        for c, s in scores.items():
            torch.testing.assert_close(s[counts[c]:], s[:counts[c] // 2], rtol=1e-3, atol=1e-5)
            assert s.std() > 0


def test_true_cost_is_the_rise_of_the_loss(small):
    f, params, _ = small
    conv, (x, y) = 'layer2.0.conv1', seen()[0]
    costs = importance.true_costs(f, params, {conv: torch.tensor([3, 0])}, [(x[:50], y[:50]),
                                                                            (x[50:], y[50:])])
    lost = dict(params)
    for k in ('weight', 'bias'):
        lost[f'layer2.0.bn1.{k}'] = params[f'layer2.0.bn1.{k}'].detach().clone()
        lost[f'layer2.0.bn1.{k}'][3] = 0
    losses = [F.cross_entropy(f(x, p, False)[0], y).item() for p in (params, lost)]
    assert float(costs[conv][0]) == pytest.approx(losses[1] - losses[0], abs=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-4 and len(costs[conv]) == 2


def test_rank_correlation():
    costs = {'a': torch.tensor([1., 3., 2.]), 'b': torch.tensor([7., 8., 9.])}
    chosen = {'a': torch.tensor([0, 1, 2]), 'b': torch.tensor([4, 3, 1])}
    scores = {'a': torch.tensor([1., 9., 8.]), 'b': torch.tensor([0., 1, 0, 2, 3])}
    of_sets, of_all = importance.correlations(scores, costs, chosen)
    assert of_sets == pytest.approx(0) and -1 < of_all < 1      # 1 and -1
    assert importance.correlations({k: torch.zeros(5) for k in costs}, costs, chosen) == (0, 0)


def test_evaluation_prints_how_well_channels_are_ranked(capsys):
    write_net()
    call('logs/a', '--prune', 'afs', '--phases', 1)
    capsys.readouterr()
    finetune.main(['--dataset', 'shapes', '--size', '40', '--nthread', '0', '--prune', 'afs',
                   '--evaluate', 'logs/a'])
    said = capsys.readouterr().out
    assert 'of 112 channels, on 64 images' in said      # two sets have eight
    for name in ('afs', 'magnitude', 'random'):
        assert re.search(rf'{name} +-?[01]\.\d\d +-?[01]\.\d\d\n', said)
