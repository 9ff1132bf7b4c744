"""Gates, masks and the pruning of channels, in double precision so that no rounding hides much."""
import re
import types

import pytest
import torch
import torch.nn.functional as F
from helpers import at_export

import cifar
import imagenet
import nets
import utils
from methods import channels, fine_tuned_net, gates, pruning
from utils import InputError
from weights import facts, folding
from weights.architecture import architecture_of

SIZE = 40


def torchvisions(params):
    """A basic ResNet by torchvision's names."""
    def name(key):
        key = re.sub(r'group(\d)\.block(\d)', lambda m: f'layer{int(m[1]) + 1}.{m[2]}', key)
        key = re.sub(r'(conv|bn)(\d)', lambda m: f'{m[1]}{int(m[2]) + 1}', key)
        key = key.replace('convdim', 'downsample.0').replace('bndim', 'downsample.1')
        return re.sub(r'(conv\d|downsample\.0)$', r'\1.weight', key)

    return {name(k): v for k, v in params.items()}


MADE = {
    'resnet18': lambda: imagenet.define_student(18, .25, 7)[1],
    'torchvision18': lambda: torchvisions(imagenet.define_student(18, .25, 7)[1]),
    'resnet50': lambda: imagenet.define_student(50, .125, 7)[1],
    'mobilenet_v2': lambda: imagenet.mobilenet_v2(.25, 7)[1],
    'bottleneck': lambda: fine_tuned_net.with_new_head(
        MADE['mobilenet_v2'](), 'classifier.1', 7, 5),
    'wrn': lambda: cifar.resnet(10, 1, 7)[1],
    'cifar_resnet': lambda: cifar.cifar_resnet(8, 1, 7)[1],
    'preactivation': at_export,
    'restored': lambda: restored(at_export()),
}
GATED = ['resnet18', 'torchvision18', 'resnet50', 'mobilenet_v2', 'wrn', 'cifar_resnet', 'restored']


def restored(params):
    """Functional-zoo's net with batch normalisation in place of its scales and shifts."""
    norms = {k.removesuffix('.a'): len(v) for k, v in params.items() if k.endswith('.a')}
    left = {k: v for k, v in params.items() if not k.endswith(('.a', '.b'))}
    params = left | utils.flatten({k: {**utils.bnparams(n), 'weight': torch.ones(n)}
                                   for k, n in norms.items()})
    utils.set_requires_grad_except_bn_(params)
    return params


def function(params):
    return nets.net_of(params, 'a file')[0]


def net(name):
    """-> (f, params) in double precision, with statistics, and scales of either sign."""
    torch.manual_seed(0)
    params = {}
    for k, v in MADE[name]().items():
        new = torch.rand(v.shape).double() + .5 if v.ndim == 1 else v.detach().double()
        new = new - 1 if k.endswith('.bias') else new
        new[::3] *= -1 if v.ndim == 1 and k.endswith('.weight') else 1
        params[k] = new.requires_grad_(v.requires_grad)
    return function(params), params


def gated_net(name, density=1., spread=.3):
    """A net whose gates differ from image to image."""
    f, params = net(name)
    params = gates.with_density(gates.with_gates(params), density)
    for k, v in params.items():
        if k.endswith('.gate.weight'):
            params[k] = (torch.randn(v.shape).double() * spread).requires_grad_()
    return f, params


def images(n=4, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


def some(params, part=.6):
    """`keep` of a random part of each set."""
    scores = channels.by_chance(params, 3)
    return {k: channels.best(s, max(1, int(len(s) * part))) for k, s in scores.items()}


def logits(f, params, x):
    with torch.no_grad():
        return f(x, params, False)[0]


# ---- sets, cut and masked -----------------------------------------------------------------------

def test_sets_are_inside_of_blocks():
    sets = {name: architecture_of(make()).channels for name, make in MADE.items()}
    first = 'group1.block0.conv0'
    following = ['group1.block0.conv1']
    assert sets['resnet18'][first] == ([first], following, ['group1.block0.bn0'])
    assert sets['wrn'][first] == ([first], following, ['group1.block0.bn1'])
    assert sets['preactivation'][first] == ([first], following, ['group1.block0.affine1'])
    assert sets['torchvision18']['layer4.1.conv1'] == (['layer4.1.conv1'], ['layer4.1.conv2'],
                                                       ['layer4.1.bn1'])
    assert sets['resnet50']['layer2.3.conv1'].readers == ['layer2.3.conv2']
    assert sets['resnet50']['layer2.3.conv2'].readers == ['layer2.3.conv3']
    assert sets['mobilenet_v2']['features.2.conv.0.0'] == (
        ['features.2.conv.0.0', 'features.2.conv.1.0'], ['features.2.conv.2'],
        ['features.2.conv.0.1', 'features.2.conv.1.1'])
    assert sets['mobilenet_v2']['features.18.0'] == (['features.18.0'], ['classifier.1'],
                                                     ['features.18.1'])
    assert sets['bottleneck']['features.18.0'].readers == ['classifier.1.bottleneck']
    assert {name: len(s) for name, s in sets.items()} == {
        'resnet18': 8, 'torchvision18': 8, 'resnet50': 32, 'mobilenet_v2': 17, 'bottleneck': 17,
        'wrn': 3, 'cifar_resnet': 3, 'preactivation': 8, 'restored': 8}
    for params in (cifar.nin(.1, 7)[1], imagenet.alexnet(7)[1], {}):
        assert not architecture_of(params).channels


@pytest.mark.parametrize('name', MADE)
def test_cut_net_computes_what_the_masked_one_does(name):
    f, params = net(name)
    keep, x = some(params), images()
    small, zeroed = channels.cut(params, keep), channels.masked(params, keep)
    expected = logits(f, zeroed, x)
    torch.testing.assert_close(logits(f, small, x), expected)
    assert not torch.allclose(expected, logits(f, params, x), rtol=.01)
    assert set(small) == set(params) and all(
        small[k].requires_grad == zeroed[k].requires_grad == v.requires_grad
        for k, v in params.items())
    for conv, kept in keep.items():
        for key in (k for k in (conv, conv + '.weight') if k in small):
            assert len(small[key]) == len(kept) < len(params[key])
    g, classes = nets.net_of(small, 'a cut net')
    assert classes == 7 and torch.equal(logits(g, small, x), logits(f, small, x))


def test_cut_takes_biases_and_fixed_statistics_along():
    f, params = net('resnet18')
    params['group1.block0.conv0.bias'] = torch.randn(32).double()
    params = utils.fix_statistics(params, ['group1.block0.bn0'])
    keep, x = some(params), images()
    small = channels.cut(params, keep)
    kept = keep['group1.block0.conv0']
    for k in ('conv0.bias', 'bn0.fixed_mean', 'bn0.fixed_var', 'bn0.bias'):
        assert torch.equal(small[f'group1.block0.{k}'], params[f'group1.block0.{k}'][kept])
    torch.testing.assert_close(logits(f, small, x), logits(f, channels.masked(params, keep), x))


def test_masked_channels_stay_zero_in_training():
    f, params = net('mobilenet_v2')
    keep = some(params)
    params = channels.masked(params, keep)
    f(images(), params, True)[0].square().sum().backward()
    found = 0
    for conv, kept in keep.items():
        off = torch.ones(len(params[conv + '.weight'])).bool()
        off[kept] = False
        for key in channels.made_and_read(params, architecture_of(params).channels[conv])[0]:
            if params[key].requires_grad:
                assert not params[key][off].any() and not params[key].grad[off].any()
                found += bool(params[key].grad[kept].any())
    assert found > 50


# ---- scores and targets -------------------------------------------------------------------------

def test_magnitude_is_that_of_filter_and_scale():
    _, params = net('mobilenet_v2')
    base = 'features.3.conv'
    expected = [params[f'{base}.0.0.weight'][c].abs().mean() * params[f'{base}.0.1.weight'][c].abs()
                * params[f'{base}.1.0.weight'][c].abs().mean()
                * params[f'{base}.1.1.weight'][c].abs() for c in range(5)]
    scores = channels.by_magnitude(params)
    torch.testing.assert_close(scores[f'{base}.0.0'][:5], torch.stack(expected))
    _, params = net('wrn')
    block = 'group1.block0'
    torch.testing.assert_close(
        channels.by_magnitude(params)[f'{block}.conv0'],
        params[f'{block}.conv0'].abs().mean((1, 2, 3)) * params[f'{block}.bn1.weight'].abs())


def test_chance_follows_the_seed():
    params = MADE['wrn']()
    a, b, c = (channels.by_chance(params, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a[k], b[k]) and not torch.equal(a[k], c[k]) for k in a)
    assert list(a) == list(architecture_of(params).channels)
    assert len(a['group2.block0.conv0']) == 64


def blank(arch):
    """A net of full width, without values."""
    with torch.device('meta'):
        return nets.new_net(arch, 7)


@pytest.mark.parametrize('multiple', [1, 8])
@pytest.mark.parametrize('arch', ['resnet18', 'resnet50', 'mobilenet_v2', 'wrn-10-4'])
def test_target_is_met(arch, multiple):
    f, params = blank(arch)
    scores, whole = channels.by_chance(params, 0), facts.multiply_adds(f, params, SIZE)
    for target in (.5, .25):
        keep = channels.to_target(f, params, scores, SIZE, target, multiple)
        part = facts.multiply_adds(f, channels.cut(params, keep), SIZE) / whole
        assert part == pytest.approx(target, abs=.02)
        assert all(torch.equal(kept, kept.unique()) for kept in keep.values())
        counts = [len(kept) for kept in keep.values()]
        assert all(n and n % multiple == 0 for n in counts)
        assert any(n % 8 for n in counts) == (multiple == 1)


@pytest.mark.parametrize('name', ['resnet18', 'wrn'])
def test_multiply_adds_of_layers_add_up(name):
    f, params = net(name)
    spent = channels.macs_of_filters(params, channels.areas(f, params, SIZE))
    assert sum(spent.values()) == facts.multiply_adds(f, params, SIZE)


def test_the_lowest_scores_go_first_and_the_same_part_of_each_set():
    f, params = blank('resnet18')
    scores = channels.by_chance(params, 0)
    for i, s in enumerate(scores.values()):
        s *= 1 + i          # which is no reason to prefer a set
    keep = channels.to_target(f, params, scores, SIZE, .5)
    parts = [len(keep[conv]) / len(s) for conv, s in scores.items()]
    assert max(parts) - min(parts) < 1 / 64 and .2 < min(parts) < .5
    for conv, s in scores.items():
        assert s.index_fill(0, keep[conv], 0).max() < s[keep[conv]].min()


def test_targets_out_of_reach_are_refused():
    f, params = net('resnet50')
    scores = channels.by_chance(params, 0)
    with pytest.raises(InputError, match=r'leaves 0\.\d+') as e:
        channels.to_target(f, params, scores, SIZE, .01)
    least = channels.cut(params, {k: channels.best(s, 1) for k, s in scores.items()})
    part = facts.multiply_adds(f, least, SIZE) / facts.multiply_adds(f, params, SIZE)
    assert float(re.search(r'leaves (0\.\d+)', str(e.value))[1]) == pytest.approx(part, abs=1e-3)
    with pytest.raises(InputError, match='no channels'):
        channels.to_target(*cifar.nin(.1, 7), {}, SIZE, .5)


# ---- gates --------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', GATED)
def test_new_gates_change_nothing(name):
    f, params = net(name)
    bases = [its.norms[0] for its in architecture_of(params).channels.values()]
    first, base = next(iter(architecture_of(params).channels)), bases[0]
    with torch.no_grad():
        params[base + '.weight'][1] = 0
        params[base + '.bias'][1] = 1
    params[first + '.bias'] = torch.randn(len(params[base + '.bias'])).double()
    params = utils.fix_statistics(params, bases[-1:])
    gated, x = gates.with_gates(params), images()
    torch.testing.assert_close(logits(f, gated, x), logits(f, params, x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*(f(x, dict(p), True)[1] for p in (params, gated)))
    assert gates.gates(gated) == bases
    assert base + '.weight' not in gated and (gated[base + '.gate.bias'] > 0).all()
    assert nets.net_of(gated, 'a gated net')[1] == 7
    flags = {k: gated[f'{base}.gate.{k}'].requires_grad for k in (
        'weight', 'bias', 'scale', 'dynamic', 'mask', 'density')}
    assert flags == dict(weight=True, bias=True, scale=True, dynamic=False, mask=False,
                         density=False)
    utils.set_requires_grad_except_bn_(gated)
    assert flags == {k: gated[f'{base}.gate.{k}'].requires_grad for k in flags}
    prefixed = utils.with_prefix(gated, 'student.')
    assert torch.equal(f(x, prefixed, False, 'student.')[0], f(x, gated, False)[0])


def test_nets_without_a_place_for_gates():
    with pytest.raises(InputError, match='no place'):
        gates.with_gates(net('preactivation')[1])


def one_gate(c=6, ni=3, density=.5):
    """Entries of a convolution, its batch normalisation and a gate."""
    torch.manual_seed(2)
    params = {'conv': utils.conv_params(ni, c, 3), 'bn.bias': torch.randn(c),
              'bn.running_mean': torch.randn(c), 'bn.running_var': torch.rand(c) + .5,
              'bn.gate.weight': torch.randn(c, ni), 'bn.gate.bias': torch.randn(c),
              'bn.gate.scale': torch.randn(c), 'bn.gate.dynamic': torch.tensor([1., 0, 1, 1, 1, 1]),
              'bn.gate.mask': torch.tensor([1., 1, 0, 1, 1, 1]),
              'bn.gate.density': torch.tensor(density)}
    return {k: v.double() for k, v in params.items()}


@pytest.mark.parametrize('mode', [False, True])
@pytest.mark.parametrize('density', [.1, .5, 1.])
def test_gate_in_a_loop(mode, density):
    params, x = one_gate(density=density), images(5, 8) + torch.randn(5, 3, 1, 1).double() * 2
    taps = dict.fromkeys(['bn.gate', 'bn.gate.q', 'bn'])
    outputs = utils.conv_bn(x, dict(params) | {'bn.running_mean': params['bn.running_mean'].clone(),
                                               'bn.running_var': params['bn.running_var'].clone()},
                            'conv', mode, taps=taps)
    y = F.conv2d(x, params['conv'], padding=1)
    torch.testing.assert_close(taps['bn'], y)
    mean, var = params['bn.running_mean'], params['bn.running_var']
    if mode:
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    gate = utils.without_prefix(params, 'bn.gate.')
    count = {.1: 1, .5: 3, 1.: 5}[density]      # of the five that are not masked
    for i in range(5):
        h = []
        for c in range(6):
            s = sum(gate['weight'][c, k] * x[i, k].mean() for k in range(3)) + gate['bias'][c]
            h.append(max(0., float(s)) if gate['mask'][c] else 0.)
        on = sorted(range(6), key=lambda c: -h[c])[:count]
        for c in range(6):
            q = h[c] if c in on else 0.
            pi = 0. if c == 2 else float(gate['scale'][1]) if c == 1 else q
            assert float(taps['bn.gate.q'][i, c]) == pytest.approx(q)
            assert float(taps['bn.gate'][i, c]) == pytest.approx(pi)
            expected = pi * (y[i, c] - mean[c]) / (var[c] + 1e-5).sqrt()
            expected = expected + params['bn.bias'][c] if pi else expected
            torch.testing.assert_close(outputs[i, c], expected)
    assert bool(outputs[:, 2].any()) is False


def test_density_is_no_victim_of_rounding():
    """0.6 times 25 in single precision is above 15."""
    params = {k: v.float() for k, v in one_gate(25, density=.6).items()}
    params |= {f'bn.gate.{k}': torch.ones(25) for k in ('bias', 'dynamic', 'mask')}
    params['bn.gate.weight'] = torch.zeros(25, 3)
    taps = {'bn.gate': None}
    utils.conv_bn(images(2, 8).float(), params, 'conv', False, taps=taps)
    assert (taps['bn.gate'] != 0).sum(1).tolist() == [15, 15]


def test_gates_keep_autocasts_type():
    params = {k: v.float() for k, v in one_gate().items()}
    with torch.autocast('cpu', torch.bfloat16):
        y = utils.conv_bn(images(2, 8).float(), params, 'conv', False)
    assert y.dtype == torch.bfloat16
    expected = utils.conv_bn(images(2, 8).float(), params, 'conv', False)
    torch.testing.assert_close(y.float(), expected, rtol=.05, atol=.05)


def test_gradients_pass_through_gates_that_are_on():
    params, x = one_gate(), images(1, 8)
    learnt = {k: v.requires_grad_() for k, v in params.items() if not utils.is_statistic(k)}
    taps = {'bn.gate': None}
    utils.conv_bn(x, params, 'conv', False, taps=taps).square().sum().backward()
    on = taps['bn.gate'][0] != 0
    dynamic = on & (params['bn.gate.dynamic'] > 0)
    assert 0 < dynamic.sum() < on.sum() < 5
    for k in ('bn.gate.weight', 'bn.gate.bias'):
        assert torch.equal(learnt[k].grad.reshape(6, -1).ne(0).all(1), dynamic)
        assert torch.equal(learnt[k].grad.reshape(6, -1).ne(0).any(1), dynamic)
    assert torch.equal(learnt['bn.bias'].grad != 0, on)
    assert torch.equal(learnt['conv'].grad.flatten(1).ne(0).any(1), on)
    assert learnt['bn.gate.scale'].grad.nonzero().tolist() == [[1]]


@pytest.mark.parametrize('name', ['resnet18', 'wrn'])
def test_gradients_reach_all_gates_of_a_net(name):
    f, params = gated_net(name, .5)
    f(images(), params, True)[0].square().sum().backward()
    assert all(params[f'{b}.gate.{k}'].grad.any() for b in gates.gates(params)
               for k in ('weight', 'bias'))


# ---- statistics, static channels and masks ------------------------------------------------------

def test_statistics_are_those_of_all_images():
    f, params = gated_net('resnet18', .7)
    x = images(6)
    found = gates.statistics(f, params, [x[:4], x[4:]])
    assert list(found) == gates.gates(params)
    taps = dict.fromkeys(['group2.block0.bn0.gate', 'group2.block0.bn0.gate.q'])
    with torch.no_grad():
        f(x, params, False, taps=taps)
    pi, q = taps.values()
    one = found['group2.block0.bn0']
    torch.testing.assert_close(one['mean'], q.mean(0))
    torch.testing.assert_close(one['variance'], q.var(0, unbiased=False))
    torch.testing.assert_close(one['pi'], pi.mean(0))
    assert (q == 0).any() and q.any()


def test_what_does_not_vary_becomes_static():
    f, params = gated_net('resnet18')
    base, x = 'group1.block1.bn0', images(6)
    with torch.no_grad():
        params[base + '.gate.weight'][4:] = 0
        params[base + '.gate.bias'][4:8] = 2.
    found = gates.statistics(f, params, [x])
    static = gates.make_static(params, found, 0)
    scale, dynamic = (static[f'{base}.gate.{k}'] for k in ('scale', 'dynamic'))
    assert not dynamic[4:].any() and dynamic[:4].any() and (scale[4:8] == 2).all()
    assert torch.equal(dynamic > 0, found[base]['variance'] > 0)
    assert scale.requires_grad and not dynamic.requires_grad
    torch.testing.assert_close(logits(f, static, x), logits(f, params, x))
    with torch.no_grad():
        scale[5] = 3.
    again = gates.make_static(static, {b: {**s, 'variance': s['variance'] * 0 + 1} for b, s in
                                       found.items()}, .5)
    assert torch.equal(again[f'{base}.gate.dynamic'], dynamic)
    again = gates.make_static(static, found, 1e9)
    assert not again[f'{base}.gate.dynamic'].any() and again[f'{base}.gate.scale'][5] == 3


@pytest.mark.parametrize('name, density, target, spread', [
    ('resnet18', 1., .7, .3), ('torchvision18', .6, .7, .3), ('mobilenet_v2', .6, .75, .3),
    ('wrn', .6, .7, .3), ('cifar_resnet', .6, .7, .3),
    ('resnet50', .6, .8, .003)])     # more, and the activations of this one overflow
def test_removed_net_computes_what_the_masked_one_does(name, density, target, spread):
    f, params = gated_net(name, density, spread)
    x = images()
    params = gates.make_static(params, gates.statistics(f, params, [x]), .01)
    scores = gates.by_gates(params, gates.statistics(f, params, [x]))
    params = pruning.mask_to_target(f, params, scores, SIZE, target)
    first = gates.gates(params)[0]
    params[first + '.gate.dynamic'] = torch.zeros_like(params[first + '.gate.dynamic'])
    with torch.no_grad():
        on = params[first + '.gate.mask'].nonzero()[:, 0]
        params[first + '.gate.scale'][on[0]] = 0    # no shift either
        if len(on) > 1:
            params[first + '.gate.scale'][on[1]] = -.5
    small = gates.compact(params)
    torch.testing.assert_close(logits(f, small, x), logits(f, params, x))
    part = facts.multiply_adds(f, small, SIZE) / facts.multiply_adds(f, params, SIZE)
    assert part == pytest.approx(target, abs=.03)
    assert first + '.weight' in small and first not in gates.gates(small)
    assert gates.gates(small) and all(small[f'{b}.gate.mask'].all() for b in gates.gates(small))
    assert small[first + '.weight'].requires_grad and small[first + '.bias'].requires_grad
    assert nets.net_of(small, 'a removed net')[1] == 7


def test_masks_only_shrink():
    f, params = gated_net('resnet18')
    x = images()
    masks, parts = [], []
    for target, sign in ((.8, 1), (.5, -1), (.9, 1)):
        scores = gates.by_gates(params, gates.statistics(f, params, [x]))
        turned = {k: s.clamp_min(.1) ** sign for k, s in scores.items()}
        params = pruning.mask_to_target(f, params, turned, SIZE, target)
        masks.append(torch.cat([params[f'{b}.gate.mask'] for b in gates.gates(params)]))
        parts.append(float(masks[-1].mean()))
    assert (masks[1] <= masks[0]).all() and torch.equal(masks[2], masks[1])
    assert 1 > parts[0] > parts[1] > 0


def test_what_is_left_is_not_masked_for_what_is_gone():
    f, params = gated_net('resnet18')
    keep = {conv: torch.tensor([2]) for conv in architecture_of(params).channels}
    params = channels.masked(params, keep)
    never_on = {k: torch.zeros(len(s)) for k, s in channels.by_chance(params, 0).items()}
    least = facts.multiply_adds(f, gates.compact(params), SIZE) / facts.multiply_adds(
        f, params, SIZE)
    params = pruning.mask_to_target(f, params, never_on, SIZE, least)
    assert all(params[f'{b}.gate.mask'].nonzero().tolist() == [[2]] for b in gates.gates(params))


# ---- what gates leave ---------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['torchvision18', 'resnet50', 'mobilenet_v2', 'wrn'])
def test_dynamic_multiply_adds(name):
    f, params = net(name)
    x = images()
    full = gates.with_gates(params)
    predictors = sum(v.numel() for k, v in full.items() if k.endswith('.gate.weight'))
    plain = facts.multiply_adds(f, params, SIZE)
    assert gates.dynamic_macs(f, params, [x], SIZE) == plain
    assert gates.dynamic_macs(f, full, [x[:3], x[3:]], SIZE) == pytest.approx(plain + predictors)
    # of gates that are the same for all images: what a net without those channels has, but for the
    # predictors, which are there whole
    half = gates.with_density(full, .5)
    left = gates.dynamic_macs(f, half, [x], SIZE)
    keep = {conv: channels.best(half[f'{base}.gate.bias'], -(-len(half[f'{base}.bias']) // 2))
            for conv, base in gates.gated_sets(half).items()}
    small = facts.multiply_adds(f, channels.cut(params, keep), SIZE)
    assert left == pytest.approx(small + predictors) and left < .9 * (plain + predictors)


def test_dynamic_multiply_adds_are_means_over_images():
    f, params = gated_net('resnet18', .5, 3.)
    x = images(3)
    single = [gates.dynamic_macs(f, params, [x[i:i + 1]], SIZE) for i in range(3)]
    assert len(set(single)) > 1
    assert gates.dynamic_macs(f, params, [x[:2], x[2:]], SIZE) == pytest.approx(sum(single) / 3)


@pytest.mark.parametrize('kind, expected', [('afs', .25), ('magnitude', .6), ('random', .6)])
def test_only_afs_lowers_the_density_of_gates(kind, expected):
    f, params = gated_net('resnet18', .6)
    opt = types.SimpleNamespace(prune=kind, macs_target=.8, density=.25, delta_s=0., seed=0,
                                round_channels=1)
    found = pruning.next_phase(opt, f, params, 1., True, SIZE, [(images(), None)])
    assert {v.item() for k, v in found.items() if k.endswith('.gate.density')} == {expected}


def test_gates_are_not_folded():
    f, params = imagenet.define_student(18, .125, 3)
    params = {k: v.detach().double() + .1 for k, v in params.items()}
    gated = gates.with_density(gates.with_gates(params), .5)
    x = torch.randn(2, 3, 40, 40).double()
    torch.testing.assert_close(f(x, folding.fold(gated), False)[0], f(x, gated, False)[0])
