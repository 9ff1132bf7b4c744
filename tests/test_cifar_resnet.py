"""CIFAR ResNets: parameters, files in the wild, the logits of a module of the classical style."""
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import FLAGS
from torch import nn

import cifar
import finetune
import nets
import utils
from engine import runs
from methods import channels, fine_tuned_net, gates
from weights import folding, store
from weights.architecture import architecture_of


class Block(nn.Module):
    def __init__(self, ni, no, stride, option, name):
        super().__init__()
        self.conv1 = nn.Conv2d(ni, no, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(no)
        self.conv2 = nn.Conv2d(no, no, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(no)
        self.stride, self.extra, self.name = stride, no - ni, name
        if self.extra and option == 'B':
            setattr(self, name, nn.Sequential(nn.Conv2d(ni, no, 1, stride, bias=False),
                                              nn.BatchNorm2d(no)))

    def forward(self, x):
        o = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, self.name):
            x = getattr(self, self.name)(x)
        elif self.extra:
            zeros = x.new_zeros(len(x), self.extra // 2, *o.shape[2:])
            x = torch.cat([zeros, x[:, :, ::self.stride, ::self.stride], zeros], 1)
        return F.relu(o + x)


class Net(nn.Module):
    """As akamaster's pytorch_resnet_cifar10 (`shortcut`, `linear`), or chenyaofo's and RepDistiller
    (`downsample`, `fc`)."""
    def __init__(self, n, widths, option, name='downsample', head='fc', classes=10):
        super().__init__()
        stem, *widths = widths
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem)
        for j, (ni, no) in enumerate(zip([stem, *widths], widths, strict=False), 1):
            setattr(self, f'layer{j}', nn.Sequential(*(
                Block(no if i else ni, no, 2 if j > 1 and i == 0 else 1, option, name)
                for i in range(n))))
        self.head = head
        setattr(self, head, nn.Linear(widths[-1], classes))

    def forward(self, x):
        g0 = self.layer1(F.relu(self.bn1(self.conv1(x))))
        g1 = self.layer2(g0)
        g2 = self.layer3(g1)
        return getattr(self, self.head)(g2.mean((2, 3))), (g0, g1, g2)


PLAIN, FOUR = (16, 16, 32, 64), (32, 64, 128, 256)


def module(*args, **kwargs):
    """A `Net` in double precision, with statistics, scales and shifts of their own."""
    torch.manual_seed(0)
    net = Net(*args, **kwargs).double().eval()
    for v in (v for v in net.state_dict().values() if v.ndim == 1):
        v.uniform_(.5, 1.5)
    return net


@pytest.mark.parametrize('depth, millions, count', [
    (20, .27, 269722), (32, .46, 464154), (44, .66, 658586), (56, .85, 853018),
    (110, 1.7, 1727962)])
def test_parameters_of_the_paper(depth, millions, count):
    _, params = cifar.cifar_resnet(depth, 1, 10)
    found = sum(v.numel() for v in params.values() if v.requires_grad)
    assert found == count and found / 1e6 == pytest.approx(millions, rel=.02)


@pytest.mark.parametrize('depth, width, shortcut, widths', [
    (8, 1, 'A', PLAIN), (8, 1, 'B', PLAIN), (8, 4, 'B', FOUR), (14, 2, 'A', (16, 32, 64, 128))])
def test_same_entries_and_logits_as_a_module(depth, width, shortcut, widths):
    f, params = cifar.cifar_resnet(depth, width, 10, shortcut)
    net, x = module((depth - 2) // 6, widths, shortcut), torch.randn(3, 3, 32, 32).double()
    theirs = {k: v for k, v in net.state_dict().items() if 'num_batches' not in k}
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in theirs.items()}
    for mode in (False, True):
        net.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(f(x, theirs, mode), net(x))
    prefixed = utils.with_prefix(theirs, 'student.')
    torch.testing.assert_close(f(x, prefixed, False, 'student.'), f(x, theirs, False))


FILES = {
    'akamaster': (lambda net: {'state_dict': utils.with_prefix(net, 'module.'), 'best_prec1': 92.},
                  ('A', 'shortcut', 'linear')),
    'option B of the same': (lambda net: {'state_dict': utils.with_prefix(net, 'module.')},
                             ('B', 'shortcut', 'linear')),
    'chenyaofo': (lambda net: net, ('B', 'downsample', 'fc')),
    'RepDistiller': (lambda net: {'epoch': 240, 'model': net, 'optimizer': {}},
                     ('B', 'downsample', 'fc')),
}


@pytest.mark.parametrize('wrap, options', FILES.values(), ids=FILES)
def test_files_in_the_wild(wrap, options):
    net, x = module(1, PLAIN, *options), torch.randn(2, 3, 32, 32).double()
    torch.save(wrap(net.state_dict()), 'a.pth')
    f, classes, params, _ = nets.load_net('a.pth')
    assert classes == 10
    found = architecture_of(params)
    assert (found.arch, found.head, found.size) == ('cifar_resnet-8-1', options[2], 32)
    with torch.no_grad():
        expected = net(x)
    torch.testing.assert_close(f(x, params, False), expected)
    torch.testing.assert_close(f(x, folding.fold(params), False), expected)
    taps = dict.fromkeys(fine_tuned_net.stages(params))
    f(x, params, False, taps=taps)
    for y, g, j in zip(taps.values(), expected[1], (1, 2, 3), strict=True):
        assert y.shape == g.shape and f'layer{j}.0.conv2' in taps


@pytest.mark.parametrize('shortcut', 'AB')
def test_channels_inside_of_blocks_are_pruned_and_gated(shortcut):
    f, params = cifar.cifar_resnet(14, 1, 10, shortcut)
    x, scores = torch.randn(2, 3, 32, 32), channels.by_chance(params, 0)
    assert list(scores) == [f'layer{j}.{i}.conv1' for j in (1, 2, 3) for i in (0, 1)]
    keep = channels.to_target(f, params, scores, 32, .5)
    small, zeroed = channels.cut(params, keep), channels.masked(params, keep)
    torch.testing.assert_close(f(x, small, False), f(x, zeroed, False), rtol=1e-4, atol=1e-4)
    assert nets.net_of(small, 'a cut net')[1] == 10
    gated = gates.with_gates(params)
    assert len(gates.gates(gated)) == len(scores)
    torch.testing.assert_close(f(x, gated, False), f(x, params, False), rtol=1e-4, atol=1e-4)


def test_a_teacher_from_a_file_a_student_and_a_source(cifar_run, capsys):
    """By AT and KD; from there to fine-tuning with pruning."""
    net = module(1, PLAIN, 'A', 'shortcut', 'linear').float()
    torch.save({'state_dict': utils.with_prefix(net.state_dict(), 'module.')}, 'resnet8.th')
    z = cifar_run('logs/a', '--model', 'cifar_resnet', '--depth', 8, '--shortcut', 'B',
                  '--teacher_id', 'resnet8.th', '--alpha', .9, '--beta', 1000)[-1]
    assert z['epoch'] == 1 and all(v > 0 for v in z['at_losses'])
    assert 'layer2.0.downsample.0.weight' in store.read_params('logs/a/model.pt7')
    for net in ('resnet8.th', 'logs/a'):
        finetune.main([*FLAGS, '--size', '32', '--source', net, '--method', 'feature_map',
                       '--prune', 'magnitude', '--macs_target', '.9', '--phases', '1', '--save',
                       f'logs/of_{net[-1]}'])
        last = runs.read_log(f'logs/of_{net[-1]}/log.txt')[-1]
        assert last['input_pixels'] == 'cifar'
        assert last['multiply_adds'] < last['multiply_adds_before']


@pytest.mark.parametrize('flags, said', [
    (['--model', 'cifar_resnet'], '--depth 16: .*6n+2, such as 8, 14, 20, 26, 38, 56'),
    (['--shortcut', 'B'], '--shortcut'), (['--model', 'cifar_resnet', '--depth', 20, '--width',
                                           '.01'], 'leaves no channels')])
def test_what_is_no_such_net(flags, said, fails):
    status, error = fails(cifar.main, '--dataset', 'shapes', *flags)
    assert status == 2 and re.search(said.replace('+', r'\+'), error)
