"""The regularisers of fine-tuning against loops, in double precision."""
import math

import pytest
import torch
import torch.nn.functional as F

import cifar
import imagenet
import utils
from methods import delta, domains, from_source, losses


def features(seed, dtype=torch.double):
    rng = torch.Generator().manual_seed(seed)
    return {'a': torch.randn(3, 5, 4, 6, generator=rng, dtype=dtype),
            'b': torch.randn(3, 2, 3, 3, generator=rng, dtype=dtype)}


SHAPES = {'channel': lambda x: x.shape[1:2], 'sample': lambda x: x.shape[:2],
          'place': lambda x: (len(x), *x.shape[2:])}


@pytest.mark.parametrize('positions', ['mean', 'sum'])
@pytest.mark.parametrize('weighted', ['', *SHAPES])
@pytest.mark.parametrize('normalize', [False, True])
def test_feature_distance(positions, weighted, normalize):
    source, target = features(0), features(1)
    weights = {k: torch.rand(SHAPES[weighted](x), dtype=torch.double)
               for k, x in source.items()} if weighted else None
    expected = 0
    for k, x in source.items():
        for b in range(3):
            for c in range(x.shape[1]):
                maps = [v[b, c].tolist() for v in (x, target[k])]
                if normalize:
                    norms = [math.sqrt(sum(v * v for row in m for v in row)) for m in maps]
                    maps = [[[v / n for v in row] for row in m]
                            for m, n in zip(maps, norms, strict=True)]
                for p in range(x.shape[2]):
                    for q in range(x.shape[3]):
                        index = {'': None, 'channel': (c,), 'sample': (b, c), 'place': (b, p, q)}
                        w = weights[k][index[weighted]] if weighted else 1
                        area = x.shape[2] * x.shape[3] if positions == 'mean' else 1
                        expected += w * (maps[1][p][q] - maps[0][p][q]) ** 2 / 2 / 3 / area
    got = from_source.feature_distance(source, target, weights, positions, normalize)
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.double), rtol=1e-5,
                               atol=0)


def test_equal_nets_are_at_distance_zero_without_a_gradient():
    source, target = features(0), features(0)
    for x in target.values():
        x.requires_grad_()
    loss = from_source.feature_distance(source, target)
    loss.backward()
    assert loss == 0 and all((x.grad == 0).all() for x in target.values())


def test_feature_map_of_bfloat16_is_added_up_in_float():
    source, target = ({k: x.bfloat16() for k, x in features(seed).items()} for seed in (0, 1))
    got = from_source.feature_distance(source, target)
    assert got.dtype == torch.float32
    exact = [{k: x.double() for k, x in v.items()} for v in (source, target)]
    torch.testing.assert_close(got.double(), from_source.feature_distance(*exact), rtol=.01, atol=0)


def test_l2_sp():
    params, start = features(0), features(1)
    expected = sum(d * d for k, v in start.items() for d in (params[k] - v).flatten()) / 2

    def l2_sp(params):
        entries = utils.with_prefix(params, 'student.') | utils.with_prefix(start, 'teacher.')
        return from_source.l2_sp_loss(losses.Batch(None, entries, *[None] * 5))[0]

    torch.testing.assert_close(l2_sp(params), expected)
    assert l2_sp({**start, 'fc': torch.ones(3)}) == 0


# ---- domains ------------------------------------------------------------------------------------

def samples(seed, n=7, shift=0.):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=rng, dtype=torch.double) + shift


def kernel(x, y, mean):
    d = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    return sum(math.exp(-d / (2 * 2. ** k * mean)) for k in (-3, -2, -1, 0, 1))


@pytest.mark.parametrize('estimator', domains.ESTIMATORS)
def test_multi_kernel_mmd_is_a_loop_over_pairs(estimator):
    x, y = samples(0, 6), samples(1, 6, .5)
    n, z = 6, [*x.tolist(), *y.tolist()]
    squares = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for p in z for q in z]
    mean = sum(squares) / (12 * 11 if estimator == 'biased' else 12 * 12)

    def k(i, j):
        return kernel(z[i], z[j], mean)

    if estimator == 'linear':
        neighbours = [(i, (i + 1) % n) for i in range(n)]
        expected = sum(k(i, j) + k(n + i, n + j) - k(i, n + j) - k(j, n + i)
                       for i, j in neighbours) / n
    else:
        itself = estimator == 'biased'
        pairs = [(i, j) for i in range(n) for j in range(n) if itself or i != j]
        expected = sum(k(i, j) + k(n + i, n + j) for i, j in pairs) / len(pairs) - 2 * sum(
            k(i, n + j) for i in range(n) for j in range(n)) / n ** 2
    assert domains.multi_kernel_mmd(x, y, estimator).item() == pytest.approx(expected)


def test_linear_mmd_is_the_distance_of_means():
    x, y = samples(0, 5), samples(1, 7, .5)
    expected = sum((sum(a) / 5 - sum(b) / 7) ** 2 for a, b in zip(
        x.T.tolist(), y.T.tolist(), strict=True))
    assert domains.linear_mmd(x, y).item() == pytest.approx(expected)


@pytest.mark.parametrize('distance', [domains.linear_mmd, domains.multi_kernel_mmd])
def test_equal_samples_are_at_distance_zero_and_shifted_ones_further_and_further(distance):
    x = samples(0)
    found = [distance(x, x + shift).item() for shift in (0., .2, .5, 1.)]
    assert found[0] == pytest.approx(0, abs=1e-12) and found == sorted(found) and found[1] > 1e-3
    same = x.clone().requires_grad_()
    distance(x, same).backward()
    assert same.grad.isfinite().all()
    assert distance(torch.ones(4, 2), torch.ones(4, 2)) == 0     # no distance at all


# ---- the channel weights of DELTA ---------------------------------------------------------------

NETS = {
    'resnet18': (lambda: imagenet.define_student(18, .125, 3), ['group1.block1.conv1',
                                                                'group3.block1.conv1']),
    'resnet50': (lambda: imagenet.define_student(50, .0625, 3), ['layer2.3.conv3']),
    'mobilenet_v2': (lambda: imagenet.mobilenet_v2(.1, 3), ['features.5.conv.2',
                                                            'features.17.conv.2']),
    'wrn-10-1': (lambda: cifar.resnet(10, .5, 3), ['group1.block0.conv1']),
    'alexnet': (lambda: imagenet.alexnet(3), ['features.0']),
}


@pytest.mark.parametrize('name', NETS)
def test_losses_without_a_channel_are_those_of_one_by_one(name):
    """With the filter set to zero, as the published code does, one whole pass for each."""
    make, layers = NETS[name]
    torch.manual_seed(0)
    f, params = make()
    params = {k: v.detach().double() + (.1 if k.endswith('bias') else 0) for k, v in params.items()}
    x, y = torch.randn(2, 3, 64, 64, dtype=torch.double), torch.tensor([0, 2])
    for layer in layers:
        base, got = delta.losses_without(f, params, layer, x, y)
        torch.testing.assert_close(base, F.cross_entropy(f(x, params, False)[0], y))
        weight = layer if layer in params else layer + '.weight'
        assert len(got) == len(params[weight])
        for c in range(0, len(got), max(1, len(got) // 5)):
            zeroed = params[weight].clone()
            zeroed[c] = 0
            logits, _ = f(x, {**params, weight: zeroed}, False)
            torch.testing.assert_close(got[c], F.cross_entropy(logits, y))
        assert got.std() > 0


def test_channel_weights_are_the_softmax_of_z_scores(monkeypatch):
    f, params = imagenet.define_student(18, .125, 3)
    params = {k: v.detach() for k, v in params.items()}
    batch = torch.randn(8, 3, 40, 40), torch.arange(8) % 3
    growth = torch.tensor([.0, .1, .4, .7, -.2, .3, .1, .0])
    monkeypatch.setattr(delta, 'losses_without',
                        lambda *_: (torch.tensor(1.), 1 + growth))
    found = delta.computed(f, params, 'fc', ['a'], lambda: iter([batch] * 6), 'float')
    mean = growth.mean()
    z = (growth - mean) / ((growth - mean) ** 2).mean().sqrt()
    torch.testing.assert_close(found['a'], torch.exp(z / 5) / torch.exp(z / 5).sum())


def test_only_the_head_is_trained_for_the_channel_weights():
    f, params = imagenet.define_student(18, .125, 3)
    before = {k: v.clone() for k, v in params.items()}
    x, y = torch.randn(6, 3, 40, 40), torch.arange(6) % 3
    trained = delta.train_head(f, params, 'fc', lambda: [(x, y)], 'float')
    moved = {k for k, v in trained.items() if not torch.equal(v, before[k])}
    assert moved == {'fc.weight', 'fc.bias'}
    assert all(torch.equal(params[k], v) for k, v in before.items())
    losses = [F.cross_entropy(f(x, p, False)[0], y) for p in (before, trained)]
    assert losses[1] < losses[0]


# ---- layers -------------------------------------------------------------------------------------

def test_bottleneck():
    fc = {'fc.weight': torch.randn(3, 2), 'fc.bias': torch.randn(3)}
    x = torch.randn(4, 5)
    narrow = {**fc, 'fc.bottleneck.weight': torch.randn(2, 5), 'fc.bottleneck.bias': torch.randn(2)}
    taps = {'fc.bottleneck': None, 'fc': None}
    y = utils.linear(x, narrow, 'fc', False, taps)
    raw = x @ narrow['fc.bottleneck.weight'].T + narrow['fc.bottleneck.bias']
    torch.testing.assert_close(taps['fc.bottleneck'], raw)
    torch.testing.assert_close(y, raw.clamp(0) @ fc['fc.weight'].T + fc['fc.bias'])


def test_dropout_of_the_bottleneck():
    """Half of the values are zero in training, the others twice as large; none in evaluation."""
    params = {'fc.weight': torch.eye(400), 'fc.bias': torch.zeros(400), 'fc.bottleneck.weight':
              torch.eye(400), 'fc.bottleneck.bias': torch.zeros(400)}
    dropped, x = {**params, 'fc.bottleneck.dropout': torch.tensor(.5)}, torch.rand(4, 400) + .1
    torch.testing.assert_close(utils.linear(x, dropped, 'fc', False), x)
    y = utils.linear(x, dropped, 'fc', True)
    assert .4 < (y == 0).float().mean() < .6
    torch.testing.assert_close(y[y != 0], 2 * x[y != 0])


def test_fixed_statistics_are_used_and_left_alone_in_training():
    params = {f'bn.{k}': torch.rand(5) + .5 for k in ('weight', 'bias', 'running_mean',
                                                      'running_var')}
    fixed = utils.fix_statistics(params, ['bn'])
    x = torch.randn(8, 5, 4, 4)
    before = {k: v.clone() for k, v in fixed.items()}
    expected = utils.batch_norm(x, params, 'bn', False)
    for mode in (True, False):
        torch.testing.assert_close(utils.norm(x, fixed, 'bn', mode), expected)
    assert all(torch.equal(v, fixed[k]) for k, v in before.items())
    assert not torch.allclose(utils.batch_norm(x, params, 'bn', True), expected)


def test_strided_depthwise_convolution_in_bfloat16_has_the_gradients_of_float():
    w = torch.randn(8, 1, 3, 3)
    found = []
    for dtype in (torch.float, torch.bfloat16):
        x = torch.arange(2 * 8 * 6 * 6).reshape(2, 8, 6, 6).remainder(7).to(dtype).requires_grad_()
        weight = w.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = utils.conv2d(x, {'c.weight': weight}, 'c', 2, groups=8)
        assert y.dtype == dtype
        y.float().square().sum().backward()
        found.append([v.float() for v in (y, x.grad, weight.grad)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=.05, atol=.02 * a.abs().max().item())
