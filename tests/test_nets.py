"""The nets of imagenet.py, and batch normalisation folded and restored."""
import pytest
import torch
import torch.nn.functional as F
from helpers import at_export
from torch import nn

import imagenet
import nets
import utils
from utils import InputError
from weights import architecture, facts, folding, store


def values(params):
    """Parameters without gradients, BN's scales, shifts and statistics random."""
    rng = torch.Generator().manual_seed(0)
    return {k: torch.rand(v.shape, generator=rng) + .5 if v.ndim == 1 else v.detach()
            for k, v in params.items()}


NETS = {
    **{f'resnet{depth}': lambda depth=depth: imagenet.define_student(depth, .125, 7)
       for depth in imagenet.BLOCKS},
    'mobilenet_v2': lambda: imagenet.mobilenet_v2(.25, 7),
    'alexnet': lambda: imagenet.alexnet(7),
}
NORMALISED = [name for name in NETS if name != 'alexnet']


def count(params):
    return sum(v.numel() for k, v in params.items() if not utils.is_statistic(k))


@pytest.mark.parametrize('arch, parameters, macs', [
    ('resnet18', 11689512, 1.814), ('resnet34', 21797672, 3.664), ('resnet50', 25557032, 4.089),
    ('resnet101', 44549160, 7.801), ('mobilenet_v2', 3504872, .301), ('alexnet', 61100840, .714)])
def test_parameters_and_multiply_adds_of_the_papers(arch, parameters, macs):
    f, params = imagenet.make_net(arch, 1, 1000)
    assert count(params) == parameters
    assert facts.multiply_adds(f, params, 224) / 1e9 == pytest.approx(macs, abs=5e-4)
    assert {v.requires_grad for k, v in params.items() if not utils.is_statistic(k)} == {True}


@pytest.mark.parametrize('name', NETS)
def test_net_follows_from_its_entries(name):
    f, params = NETS[name]()
    x = torch.randn(2, 3, 64, 64)
    logits, groups = f(x, params, False)
    assert logits.shape == (2, 7) and len(groups) == 4
    g, classes = nets.net_of(params, 'a file')
    assert classes == 7 and torch.equal(g(x, params, False)[0], logits)
    prefixed = utils.with_prefix(params, 'student.')
    taps = dict.fromkeys(['student.' + k for k in architecture.convolutions(params)])
    assert torch.equal(f(x, prefixed, False, 'student.', taps)[0], logits)
    assert all(v is not None for v in taps.values())
    with pytest.raises(TypeError, match='mode'):
        f(x, folding.fold(params) if name != 'alexnet' else params, 1)


@pytest.mark.parametrize('depth', [18, 34])
def test_published_students_have_no_bn_behind_the_projection(depth):
    """Its keys, as szagoruyko/attention-transfer has them, are ours less `bndim`."""
    f, params = imagenet.define_student(depth, .125, 7)
    published = {k: v for k, v in values(params).items() if '.bndim.' not in k}
    assert len(published) == len(params) - 4 * 4 and 'group1.block0.convdim' in published
    x = torch.randn(2, 3, 64, 64)
    logits, (g0, g1, *_) = nets.net_of(published, 'a file')[0](x, published, False)

    def block(x, base, stride):
        def bn(x, name):
            return utils.batch_norm(x, published, f'{base}.{name}', False)
        o = F.relu(bn(F.conv2d(x, published[f'{base}.conv0'], stride=stride, padding=1), 'bn0'))
        o = bn(F.conv2d(o, published[f'{base}.conv1'], padding=1), 'bn1')
        if f'{base}.convdim' in published:
            x = F.conv2d(x, published[f'{base}.convdim'], stride=stride)
        return F.relu(o + x)

    o = g0
    for i in range(imagenet.BLOCKS[depth][1]):
        o = block(o, f'group1.block{i}', 1 if i else 2)
    torch.testing.assert_close(o, g1)
    assert not torch.allclose(logits, f(x, values(params), False)[0])


def exported(params):
    """A net as functional-zoo exports it: folded, `conv0.weight`, `conv_dim`."""
    folded = folding.fold(values(params))
    return {(k + '.weight' if v.ndim == 4 else k).replace('convdim', 'conv_dim'): v
            for k, v in folded.items()}


def test_folded_exports_use_the_bias_of_the_projection():
    f, params = imagenet.define_student(34, .125, 7)
    zoo, x = exported(params), torch.randn(2, 3, 64, 64)
    assert {'conv0.bias', 'group1.block0.conv_dim.bias', 'group3.block2.conv1.weight'} < set(zoo)
    g, classes = nets.net_of(zoo, 'a file')
    expected = f(x, values(params), False)
    torch.testing.assert_close(g(x, zoo, False), expected, rtol=1e-3, atol=1e-3)
    without = {k: v for k, v in zoo.items() if 'conv_dim.bias' not in k}
    assert not torch.allclose(g(x, without, False)[0], expected[0], rtol=.01)


def test_preactivation_export():
    params, x = at_export(), torch.randn(2, 3, 64, 64)
    f, classes = nets.net_of(params, 'a file')
    logits, groups = f(x, params, False)
    assert classes == 7 and [g.shape[1] for g in groups] == [8, 16, 32, 64]

    def act(x, base):
        a, b = (params[f'{base}.{k}'].view(1, -1, 1, 1) for k in 'ab')
        return F.relu(a * x + b)

    base = 'group2.block0'
    x = act(groups[1], base + '.affine0')
    o = act(F.conv2d(x, params[base + '.conv0'], stride=2, padding=1), base + '.affine1')
    x = F.conv2d(o, params[base + '.conv1'], padding=1) + F.conv2d(
        x, params[base + '.conv_dim'], stride=2)
    base = 'group2.block1'
    o = act(F.conv2d(act(x, base + '.affine0'), params[base + '.conv0'], padding=1),
            base + '.affine1')
    torch.testing.assert_close(x + F.conv2d(o, params[base + '.conv1'], padding=1), groups[2])
    last = act(groups[3], 'affine_last').mean((2, 3))
    torch.testing.assert_close(F.linear(last, params['fc.weight'], params['fc.bias']), logits)


CAFFE = ((3, 96, 11, 4, 0, 1), (96, 256, 5, 1, 2, 2), (256, 384, 3, 1, 1, 1),
         (384, 384, 3, 1, 1, 2), (384, 256, 3, 1, 1, 2))


@pytest.mark.parametrize('names', [
    [f'conv{i}' for i in range(1, 6)] + ['fc6', 'fc7', 'fc8'],
    [f'features.{i}' for i in (0, 4, 8, 10, 12)] + ['classifier.0', 'classifier.3', 'classifier.6'],
    list(architecture.ALEXNET)])
def test_caffes_alexnet_is_told_by_its_second_convolution(names, tmp_path):
    convs = [nn.Conv2d(*shape[:5], groups=shape[5]) for shape in CAFFE]
    linears = [nn.Linear(*n) for n in ((9216, 4096), (4096, 4096), (4096, 7))]
    store.write_params({f'{name}.{k}': v for name, layer in zip(names, convs + linears, strict=True)
                        for k, v in layer.state_dict().items()}, 'a.hkl')   # in alphabetical order
    f, classes, params, _ = nets.load_net('a.hkl')
    assert classes == 7 and params['features.3.weight'].shape[1] == 48

    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    c1, c2, c3, c4, c5 = convs
    reference = nn.Sequential(
        c1, nn.ReLU(), pool(), nn.LocalResponseNorm(5, 1e-4, .75), c2, nn.ReLU(), pool(),
        nn.LocalResponseNorm(5, 1e-4, .75), c3, nn.ReLU(), c4, nn.ReLU(), c5, nn.ReLU(), pool(),
        nn.Flatten(), linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2])
    bgr = torch.randn(2, 3, 227, 227) * 60
    with torch.no_grad():
        torch.testing.assert_close(f(bgr.flip(1), params, False)[0], reference(bgr))
    opt = imagenet.parse(['--imagenetpath', 'x'])
    assert architecture.input_of(opt, params) == (227, 'caffe')
    assert architecture.input_of(opt, imagenet.alexnet(7)[1]) == (224, 'torchvision')


def test_torchvisions_alexnet():
    f, params = imagenet.alexnet(7)
    x = torch.randn(1, 3, 224, 224)
    weight, bias = params['features.0.weight'], params['features.0.bias']
    logits, groups = f(x, params, False)
    torch.testing.assert_close(groups[0], F.relu(F.conv2d(x, weight, bias, 4, 2)))
    torch.testing.assert_close(groups[3].shape, torch.Size([1, 256, 13, 13]))
    last = F.max_pool2d(groups[3], 3, 2).flatten(1)
    for key in (1, 4, 6):
        last = F.linear(last, params[f'classifier.{key}.weight'], params[f'classifier.{key}.bias'])
        last = F.relu(last) if key < 6 else last
    torch.testing.assert_close(last, logits)
    assert not torch.equal(f(x, params, True)[0], f(x, params, True)[0])    # dropout


def test_torchvisions_names():
    """Some of each file's; the parameter counts pin the rest."""
    names = set(imagenet.define_student(50, 1)[1])
    assert {'conv1.weight', 'bn1.running_var', 'layer1.0.downsample.0.weight',
            'layer1.0.downsample.1.bias', 'layer3.5.conv3.weight', 'layer4.2.bn3.weight',
            'fc.bias'} < names and len(names) == 320 - 53       # less num_batches_tracked
    names = set(imagenet.mobilenet_v2()[1])
    assert {'features.0.0.weight', 'features.1.conv.0.0.weight', 'features.1.conv.1.weight',
            'features.1.conv.2.bias', 'features.2.conv.1.1.running_mean',
            'features.17.conv.3.weight', 'features.18.1.bias', 'classifier.1.weight'} < names
    assert len(names) == 314 - 52


# ---- folded and restored ------------------------------------------------------------------------

@pytest.mark.parametrize('name', [*NORMALISED, 'published', 'preactivation'])
def test_folded_and_restored_nets_agree(name):
    """In double precision, so that no rounding hides anything."""
    if name == 'preactivation':
        params = at_export()
    elif name == 'published':
        params = {k: v for k, v in values(NETS['resnet18']()[1]).items() if '.bndim.' not in k}
    else:
        params = values(NETS[name]()[1])
    params = {k: v.double() for k, v in params.items()}
    f, _ = nets.net_of(params, 'a file')
    x, batches = torch.randn(6, 3, 64, 64).double(), torch.randn(2, 4, 3, 64, 64).double()
    logits = f(x, params, False)[0]
    folded = folding.fold(params)
    torch.testing.assert_close(f(x, folded, False)[0], logits)
    assert name == 'preactivation' or not any('running' in k for k in folded)
    assert folding.folded(f, folded)
    restored = folding.restore_batch_norm(f, folded, batches)
    torch.testing.assert_close(f(x, restored, False)[0], logits)
    assert not folding.folded(f, restored)
    if name in NORMALISED:
        assert {k: v.shape for k, v in restored.items()} == {k: v.shape for k, v in params.items()}
    # statistics of these very images: in training mode the same comes out, but for the moving
    # averages, which take the unbiased variance
    whole = torch.cat(list(batches))
    torch.testing.assert_close(f(whole, dict(restored), True)[1], f(whole, folded, False)[1],
                               rtol=1e-4, atol=1e-4)


def test_restored_statistics_are_those_of_the_convolutions_outputs():
    f, params = NETS['resnet18']()
    folded = folding.fold(values(params))
    batch = torch.randn(8, 3, 64, 64)
    restored = folding.restore_batch_norm(f, folded, [batch[:5], batch[5:]])
    taps = {'group2.block0.convdim': None}
    f(batch, restored, False, taps=taps)
    mean, variance = (getattr(taps['group2.block0.convdim'], k)((0, 2, 3)) for k in ('mean', 'var'))
    torch.testing.assert_close(restored['group2.block0.bndim.running_mean'], mean)
    torch.testing.assert_close(restored['group2.block0.bndim.running_var'], variance, rtol=.01,
                               atol=0)
    torch.testing.assert_close(restored['group2.block0.bndim.weight'], (variance + 1e-5).sqrt(),
                               rtol=.01, atol=0)


def test_identity_statistics_count_as_folded():
    """As a released MobileNetV2 has them: BN entries that are kept and do nothing but shift."""
    f, params = NETS['mobilenet_v2']()
    params = values(params)
    for base in folding.normalisations(f, params):
        n = len(params[base + '.weight'])
        params |= {base + '.running_mean': torch.zeros(n), base + '.weight': torch.ones(n),
                   base + '.running_var': torch.full((n,), 1 - 1e-5)}
    assert folding.folded(f, params)
    x = torch.randn(8, 3, 64, 64)
    restored = folding.restore_batch_norm(f, params, [x])
    assert not folding.folded(f, restored)
    torch.testing.assert_close(f(x, restored, False)[0], f(x, params, False)[0], rtol=1e-3,
                               atol=1e-3)


# ---- files --------------------------------------------------------------------------------------

def test_define_teacher_reads_what_people_have():
    f, params = NETS['resnet50']()
    x = torch.randn(1, 3, 64, 64)
    torch.save({**params, 'bn1.num_batches_tracked': torch.tensor(3)}, 'torchvision.pth')
    g, read = imagenet.define_teacher('torchvision.pth')
    assert torch.equal(g(x, read, False)[0], f(x, params, False)[0])
    for name, entries in (('zoo.hkl', exported(imagenet.define_student(18, .125, 7)[1])),
                          ('at.hkl', at_export())):
        store.write_params(entries, name)
        g, read = imagenet.define_teacher(name)
        assert g(x, read, False)[0].shape == (1, 7)


def test_normalisation_with_statistics_of_its_own_is_left_alone():
    f, params = NETS['resnet18']()
    params = values(params)
    mixed = folding.without(params, 'group1.block0.bn0') | {'group1.block0.conv0.bias':
                                                            torch.ones(16)}
    assert folding.folded(f, mixed) == ['group1.block0.bn0']
    restored = folding.restore_batch_norm(f, mixed, [torch.randn(4, 3, 64, 64)])
    assert all(torch.equal(restored[k], v) for k, v in params.items()
               if not k.startswith('group1.block0.bn0'))


@pytest.mark.parametrize('change, said', [
    (lambda p: p | {'layer1.0.se.fc1.weight': torch.zeros(2, 2, 1, 1)}, 'layer1.0.se.fc1.weight'),
    (lambda p: {k: v for k, v in p.items() if k != 'fc.bias'}, 'no entry .*fc.bias'),
    (lambda p: p | {'layer2.0.conv2.weight': torch.zeros(16, 8, 3, 3)}, 'do not fit'),
    (lambda p: {k: v for k, v in p.items() if k[:5] != 'layer'}, 'not a net of this script'),
    (lambda p: {'group0.block0.conv1': torch.zeros(8, 8, 3, 3)}, 'not a net of this script')])
def test_other_nets_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        nets.net_of(change(NETS['resnet50']()[1]), 'a file')


def test_a_resnet_with_another_stem_is_not_taken_for_one_of_imagenet():
    """ResNets with four groups for CIFAR begin with a 3x3 convolution, and have other strides."""
    _, params = imagenet.define_student(18, .125, 7)
    store.write_params({**params, 'conv0': utils.conv_params(3, 64, 3)[:8]}, 'small_stem.pth')
    with pytest.raises(InputError, match='small_stem.pth'):
        nets.load_net('small_stem.pth')
