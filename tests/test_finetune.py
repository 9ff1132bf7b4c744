"""finetune.py: its methods on shapes, what is trained and how fast, evaluation, what is refused."""
import functools
import json
import math
import pathlib
import types

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import FLAGS, METHODS, NETS, call, objective_of, student, write_net

import cifar
import finetune
import imagenet
import nets
import utils
from data import arrays, cifar_sets, decoded, image_files, image_sets, layouts, official, shapes
from engine import loop, runs
from methods import domains, fine_tuned_net, fine_tuning, losses
from system import downloads
from weights import folding, store
from weights.architecture import architecture_of


def asked(method, mmd_layers='all'):
    """Options as `fine_tuned_net.tapped` looks at them."""
    return types.SimpleNamespace(method=method, mmd_layers=mmd_layers)


@pytest.mark.parametrize('method', METHODS)
def test_methods(method, capsys):
    """A few steps of each, on few images; the regulariser is there and finite."""
    assert set(METHODS) == {k for k, m in finetune.METHODS.items() if m.where != 'teaching'}
    write_net()
    write_net('teacher.pth', classes=10)
    first, *epochs = call('logs/a', '--method', method, *METHODS[method])
    assert len(epochs) == 2 and epochs[-1]['epochs'] == 2 and epochs[-1]['steps'] == 2
    assert epochs[-1]['num_classes'] == 10
    losses = epochs[-1]['at_losses']
    assert len(losses) == {'l2': 0, 'at': 2}.get(method, 1)
    assert all(math.isfinite(v) for v in losses)
    if method not in ('l2', 'kd'):
        assert losses[0] > 0
    said = capsys.readouterr().out
    assert ('channel weights: ' in said) == (method == 'delta')
    assert 'for comparison with papers only' in said


@pytest.mark.parametrize('arch', NETS)
def test_architectures(arch):
    write_net(arch=arch)
    call('logs/a', '--method', 'feature_map', '--arch', arch, '--resize', 'keep', '--crop', 'area')
    params = store.read_params('logs/a/model.pt7')
    assert architecture_of(params).arch == arch
    f, classes, _, _ = nets.load_net('logs/a')
    assert classes == 10
    last = fine_tuned_net.tapped(asked('feature_map'), params)
    assert len(last) == (3 if arch.startswith('wrn') else 4)
    taps = dict.fromkeys(last)
    groups = f(torch.randn(2, 3, 64, 64), params, False, taps=taps)[1]
    for x, g in zip(taps.values(), groups, strict=True):       # the last layer of each stage
        assert len(x) == 2 and (arch == 'mobilenet_v2' or x.shape == g.shape)


@pytest.mark.parametrize('arch', ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'mobilenet_v2',
                                  'alexnet', 'wrn-16-2'])
def test_tapped_layers_are_there_and_are_known_by_name(arch):
    _, params = nets.new_net(arch, 3)
    assert architecture_of(params).arch == arch
    found = fine_tuned_net.tapped(asked('delta'), params)
    expected = {'resnet101': ['layer1.2.conv3', 'layer2.3.conv3', 'layer3.22.conv3',
                              'layer4.2.conv3'],
                'resnet34': [f'group{j}.block{i}.conv1' for j, i in enumerate((2, 3, 5, 2))],
                'wrn-16-2': [f'group{j}.block1.conv1' for j in range(3)],
                'mobilenet_v2': [f'features.{i}.conv.2' for i in (5, 9, 13, 17)]}
    assert found == expected.get(arch, found) and len(found) == (3 if 'wrn' in arch else 4)


def test_torchvisions_names_of_resnet18():
    _, params = imagenet.define_student(18, .125, 3)
    new = {}
    for k, v in params.items():
        k = k.replace('group', 'layer').replace('.block', '.').replace('convdim', 'downsample.0')
        for i in (1, 0):
            k = k.replace(f'conv{i}', f'conv{i + 1}').replace(f'bn{i}', f'bn{i + 1}')
        for j in (3, 2, 1, 0):
            k = k.replace(f'layer{j}', f'layer{j + 1}')
        new[k.replace('bndim', 'downsample.1') + ('.weight' if v.ndim == 4 else '')] = v
    assert architecture_of(new).arch == 'resnet18'
    assert fine_tuned_net.tapped(asked('delta'), new) == [f'layer{j}.1.conv2' for j in (1, 2, 3, 4)]
    assert nets.net_of(new, 'a file')[1] == 3


# ---- what is minimised --------------------------------------------------------------------------

def test_distillation_is_that_of_the_attention_transfer_paper():
    opt, f, params, layers, x, y = objective_of('kd')
    objective = losses.make_objective(opt, f, f, layers, [(opt.method, None)])
    frozen = {k: v.clone() for k, v in params.items()}
    loss, logits, _ = objective(params, x, y, True, torch.tensor(.9))
    y_t, _ = f(x, frozen, False, 'teacher.')
    torch.testing.assert_close(loss, utils.distillation(logits, y_t, y, 4, .9))


def test_attention_is_of_the_last_two_groups():
    opt, f, params, layers, x, y = objective_of('at')
    frozen = {k: v.clone() for k, v in params.items()}
    loss, logits, parts = losses.make_objective(opt, f, f, layers, [(opt.method, None)])(
        params, x, y, True, torch.tensor(1e3))
    assert len(parts) == 2
    at = sum(parts)
    g_t = f(x, frozen, False, 'teacher.')[1]
    g_s = f(x, frozen, True, 'student.')[1]
    torch.testing.assert_close(at, sum(utils.at_loss(g_s[i], g_t[i]) for i in (2, 3)))
    torch.testing.assert_close(loss, F.cross_entropy(logits, y) + 1e3 * at)


@pytest.mark.parametrize('arch', ['resnet18', 'mobilenet_v2'])
def test_features_are_compared_before_normalisation_with_the_source_in_evaluation(arch):
    opt, f, params, layers, x, y = objective_of('feature_map', arch=arch)
    folded = {k: v for k, v in params.items() if k.startswith('student.')}
    source = utils.without_prefix(params, 'teacher.')
    folded |= utils.with_prefix(folding.fold(source, keep=layers), 'teacher.')
    start = {k: v.clone() for k, v in params.items()}
    objective = losses.make_objective(opt, f, f, layers, [(opt.method, None)])
    _, _, (got,) = objective(folded, x, y, True, torch.tensor(1.))
    taps = [dict.fromkeys(base + k for k in layers) for base in ('student.', 'teacher.')]
    f(x, start, True, 'student.', taps[0])
    f(x, start, False, 'teacher.', taps[1])
    expected = sum((a - b).square().sum((1, 2, 3)).mean() / 2 / a[0, 0].numel()
                   for a, b in zip(*(t.values() for t in taps), strict=True))
    torch.testing.assert_close(got, expected)


def test_fixed_statistics_are_folded_too():
    f, params = NETS['resnet18'](3)
    params = {k: v.detach().double() + .1 for k, v in params.items()}
    fixed = utils.fix_statistics(params, ['bn0', 'group0.block0.bn0', 'group2.block0.bndim'])
    x = torch.randn(2, 3, 40, 40).double()
    torch.testing.assert_close(f(x, folding.fold(fixed), False)[0], f(x, params, False)[0])
    assert not any('mean' in k for k in folding.fold(fixed))


@pytest.mark.parametrize('method', ['ddc', 'dan'])
def test_domains_only_the_source_has_labels(method):
    opt, f, params, layers, x, y = objective_of(method, shift=True)
    assert layers == (['fc.input'] if method == 'ddc' else ['fc.bottleneck', 'fc'])
    objective = losses.make_objective(opt, f, None, layers, [(opt.method, None)])
    loss, logits, (distance,) = objective(params, x, y, True, torch.tensor(0.))
    assert len(logits) == 3 and distance > 0
    torch.testing.assert_close(loss, F.cross_entropy(logits, y))
    same = torch.cat([x[:3], x[:3]])
    assert objective(params, same, y, True, torch.tensor(0.))[2][0].abs() < 1e-12


@pytest.mark.parametrize('estimator', domains.ESTIMATORS)
def test_dan_of_the_bottleneck_alone_is_behind_relu_and_dropout(estimator):
    """As Transfer-Learning-Library has it."""
    opt, f, params, layers, x, y = objective_of('dan', '--mmd_layers', 'bottleneck', '--mmd',
                                                estimator, '--dropout', '.5', shift=True)
    assert layers == ['fc.input']
    params['student.fc.bottleneck.dropout'] = torch.tensor(.5)
    start = {k: v.clone() for k, v in params.items()}
    torch.manual_seed(0)
    objective = losses.make_objective(opt, f, None, layers, [('dan', None)])
    _, logits, (got,) = objective(params, x, y, True, torch.tensor(1.))
    torch.manual_seed(0)
    taps = {'student.fc.bottleneck': None}
    f(x, start, True, 'student.', taps)
    torch.manual_seed(0)
    o = taps['student.fc.bottleneck'].relu()
    o = o * (torch.rand_like(o) >= .5) * 2
    torch.testing.assert_close(got, domains.multi_kernel_mmd(o[:3], o[3:], estimator))
    fc = utils.without_prefix(start, 'student.fc.')
    torch.testing.assert_close(logits, o[:3] @ fc['weight'].T + fc['bias'])


def test_alexnets_dan_takes_its_three_last_layers():
    _, params = nets.new_net('alexnet', 3)
    found = fine_tuned_net.tapped(asked('dan'), params)
    assert found == ['classifier.1', 'classifier.4', 'classifier.6']
    opt = finetune.parse(['--method', 'dan', '--shift', '1', '--arch', 'alexnet', '--dataset',
                          'shapes'])
    assert fine_tuned_net.bottleneck_of(opt, params) == 0


@pytest.mark.parametrize('sp', ['conv', 'all'])
def test_l2_sp_compares_what_it_should(sp):
    write_net()
    opt = finetune.parse([*FLAGS, '--source', 'source.pth', '--method', 'l2_sp', '--sp', sp])
    f, _, start, _ = nets.load_net('source.pth')
    f_t, kept = fine_tuned_net.reference(opt, f, start, 'fc', [], 'torchvision', nets.load_net)
    assert f_t is None and not any(k.startswith('fc') or 'running' in k for k in kept)
    assert ('bn0.weight' in kept) == (sp == 'all') and 'group1.block0.conv0' in kept


def watched(monkeypatch, copied=False):
    """Make `loop.fit` leave here what it trains -> its parameters, and the same before it;
    `copied`: each entry is given memory of its own first."""
    fit, seen, before = loop.fit, {}, {}

    def watching(trainings, device):
        params = trainings[0].state.params
        if copied:
            params.update({k: v.detach().clone().requires_grad_(v.requires_grad)
                           for k, v in params.items()})
        seen.update(params)
        before.update({k: v.detach().clone() for k, v in params.items()})
        fit(trainings, device)

    monkeypatch.setattr(loop, 'fit', watching)
    return seen, before


COMPARED = {
    'feature_map': [], 'afd': [], 'ast': [], 'act': [], 'l2_sp': ['--sp', 'conv'],
    'l2_sp all': ['--sp', 'all'], 'delta': ['--channel_weights', 'compute'],
    'afd pruned': ['--prune', 'afs', '--macs_target', '0.9', '--phases', '2'],
    'at': ['--teacher', 'teacher.pth'], 'kd': ['--teacher', 'teacher.pth'],
}


@pytest.mark.parametrize('case, arch', [
    pytest.param(case, arch, marks=[pytest.mark.slow] * (
        case in ('delta', 'afd pruned') and arch != 'wrn-10-1'))
    for case in COMPARED for arch in NETS])
def test_what_a_net_is_compared_with_stays(case, arch, monkeypatch):
    """It shares no memory with the net that is trained, so that further copies change nothing."""
    write_net(arch=arch)
    write_net('teacher.pth', arch, classes=10)
    flags = ['--method', case.split()[0], '--alpha', '1e-4', '--dtype', 'float', *COMPARED[case]]
    results = []
    for copied in (False, True):
        with monkeypatch.context() as patch:
            seen, before = watched(patch, copied)
            last = call(f'logs/{copied}', *flags)[-1]
        results.append([last[k] for k in ('train_loss', 'at_losses', 'test_loss')])
        fixed = {k for k in seen if k.startswith('teacher.')}
        assert fixed and all(seen[k].equal(before[k]) for k in fixed)
        assert not all(v.equal(before[k]) for k, v in seen.items())
        places = [v.untyped_storage().data_ptr() for v in seen.values()]
        assert len(set(places)) == len(places)
    assert results[0] == results[1]


# ---- what is trained, and how fast --------------------------------------------------------------

@pytest.mark.parametrize('frozen', ['first_group', 'bn', 'bn_statistics', 'body'])
def test_frozen_parts_do_not_move(frozen):
    write_net()
    start = store.read_params('source.pth')
    call('logs/a', '--freeze', frozen, '--export', 'out.pth', '--lr', .1)
    end = store.read_params('out.pth')
    assert set(end) == set(start)
    moved = {k for k, v in end.items() if v.shape != start[k].shape or not v.equal(start[k])}
    assert 'fc.weight' in moved
    first = {k for k in moved if k.startswith(('conv0', 'bn0', 'group0'))}
    statistics = {k for k in moved if 'running' in k}
    scales = {k for k in moved if '.bn' in k and k.endswith(('.weight', '.bias'))}
    assert (not first) == (frozen in ('first_group', 'body'))
    assert (not statistics) == (frozen in ('bn', 'bn_statistics', 'body'))
    assert (not scales) == (frozen in ('bn', 'body'))
    assert ('group2.block0.conv0' in moved) == (frozen != 'body')


def test_what_is_updated_alike(monkeypatch):
    seen, fit = [], loop.fit
    monkeypatch.setattr(loop, 'fit', lambda trainings, device: (
        seen.extend(trainings), fit(trainings, device)))
    call('logs/a', '--arch', 'wrn-10-1', '--head_lr_mult', 10, '--beta', .5, '--weight_decay', .25,
         '--schedule', 'inv', '--lr_gamma', .5, '--lr', 1e-3, source='')
    state = seen[0].state
    old, new, attention = state.groups
    assert len(new.keys) == 2 and len(old.keys) == len(
        [k for k in student('logs/a') if not utils.is_statistic(k)]) - 2
    assert state.rate == pytest.approx(1e-3 * (1 + .5 * 3) ** -.75)      # of the fourth step
    assert old[1:] == (.25, 1) and new[1:] == (.5, 10) and attention == ([], 0, 1)


def test_rates():
    def rates(*flags, epochs=6, steps=10):
        opt = finetune.parse(['--arch', 'resnet18', '--epochs', str(epochs), '--lr', '1', *flags])
        at = functools.partial(fine_tuning.rate, opt, steps)
        return [at(epoch, 1) for epoch in range(1, epochs + 1)]

    assert rates('--epoch_step', '[3]') == pytest.approx([1, 1, .1, .1, .1, .1])
    assert rates('--schedule', 'exp', '--epoch_step', '[3]') == pytest.approx(
        [.1 ** (k / 3) for k in range(6)])
    assert rates('--schedule', 'inv', '--lr_gamma', '.1') == pytest.approx(
        [(1 + .1 * 10 * k) ** -.75 for k in range(6)])


@pytest.mark.parametrize('flags, images, epochs, steps', [
    (['--epochs', '3'], 100, 3, 2), (['--iterations', '9000'], 12000, 48, 188),
    (['--iterations', '10', '--steps_per_epoch', '5'], 100, 2, 5),
    (['--iterations', '1'], 100, 1, 2)])
def test_epochs_of_iterations(flags, images, epochs, steps):
    """48 epochs of Stanford Dogs, as published."""
    opt = finetune.parse(['--arch', 'resnet18', *flags])
    assert fine_tuning.set_epochs(opt, images) == steps and opt.epochs == epochs
    assert opt.epoch_step == [1 + max(1, int(.67 * epochs))]


@pytest.mark.parametrize(('iterations', 'images', 'epochs', 'drop'), [
    (4500, 12000, 24, 17), (4500, 7710, 37, 25), (4500, 15420, 19, 13), (6000, 5994, 64, 43),
    (9000, 5360, 107, 72)])
def test_the_rate_drops_where_it_does_in_the_published_codes(iterations, images, epochs, drop):
    """Stanford Dogs, Caltech-256-30 and -60, CUB, MIT67: AFA's code counts epochs from 0 and drops
    at int(0.67 epochs), we count from 1."""
    opt = finetune.parse(['--arch', 'resnet18', '--iterations', str(iterations)])
    fine_tuning.set_epochs(opt, images)
    assert (opt.epochs, opt.epoch_step) == (epochs, [drop])


def test_an_epoch_has_as_many_images_as_its_steps():
    write_net()
    z = call('logs/a', '--dtype', 'float')[-1]
    images, how = np.zeros((7, 32, 32, 3), np.uint8), arrays.PIXELS['torchvision']
    for made in (decoded.decoded_images(images, np.arange(7), 4, 32, *how, torch.device('cpu'),
                                        train=True, count=20),
                 arrays.held_images(torch.from_numpy(images), torch.arange(7), 4, *how, train=True,
                                    count=20)):
        found = torch.cat([y for _, y in made.batches()])
        assert made.n == len(found) == 20 and found[:7].sort().values.tolist() == list(range(7))
        assert found[7:14].sort().values.tolist() == list(range(7))
    assert z['train_acc'] * 32 / 100 == pytest.approx(round(z['train_acc'] * 32 / 100))


def test_a_folded_source_is_given_its_batch_normalisation_back(capsys, fails):
    f, params = NETS['resnet18'](13)
    params = {k: v + .1 if k.endswith('running_mean') else v for k, v in params.items()}
    store.write_params(folding.fold(params), 'folded.pth')
    status, said = fails(finetune.main, *FLAGS, '--source', 'folded.pth', '--method', 'feature_map',
                         '--teacher', 'folded.pth')
    assert status == 2 and 'folded.pth has its batch normalisation folded away' in said
    capsys.readouterr()
    call('logs/a', '--freeze', 'body', '--dtype', 'double', source='folded.pth')
    assert 'is restored in' in capsys.readouterr().out
    got = store.read_params('logs/a/model.pt7')
    assert {k for k in got if 'running' in k} == {k for k in params if 'running' in k}
    x, taps = torch.randn(4, 3, 40, 40).double(), [{'fc': None}, {'fc': None}]
    body = {k: v.double() for k, v in params.items()}
    for p, tap in ((body, taps[0]), ({**got, 'fc.weight': body['fc.weight'],
                                      'fc.bias': body['fc.bias']}, taps[1])):
        f(x, p, False, taps=tap)
    torch.testing.assert_close(taps[0]['fc'], taps[1]['fc'], rtol=1e-4, atol=1e-5)


def test_continued_run_equals_an_uninterrupted_one():
    write_net()
    flags = ['--method', 'dan', '--shift', .5, '--schedule', 'inv', '--head_lr_mult', 10]
    call('logs/whole', *flags)
    call('logs/parts', *flags, '--iterations', 2)
    call('logs/parts', *flags)
    a, b = student('logs/whole'), student('logs/parts')
    assert all(torch.equal(v, b[k]) for k, v in a.items())


# ---- the protocol -------------------------------------------------------------------------------

def test_the_log_has_last_best_on_validation_and_best_on_test():
    write_net()
    epochs = call('logs/a', '--validate', 40, '--epochs', 4, '--lr', .05)[1:]
    last, best = epochs[-1], max(epochs, key=lambda z: z['val_acc'])
    assert last['best_on_test_acc'] == max(z['test_acc'] for z in epochs)
    assert last['best_on_validation_epoch'] == best['epoch']
    assert last['best_on_validation_test_acc'] == best['test_acc']
    assert 'best_on_validation_epoch' not in call('logs/b')[-1]


def test_validation_images_are_not_trained_on():
    opt = finetune.parse([*FLAGS, '--arch', 'resnet18', '--validate', '40'])
    sets, names = image_sets.read_sets(opt)
    assert len(names) == 10 and len(sets['validation'][1]) == 40
    train, held = ({x.tobytes() for x in sets[k][0]} for k in ('train', 'validation'))
    assert not train & held and len(sets['train'][1]) + 40 == len(image_sets.subset(
        cifar_sets.load_arrays('shapes')[0], fraction=.4)[0][1])
    assert len(sets['test'][1]) == 64


def test_evaluation(capsys):
    write_net()
    z = call('logs/a', '--dtype', 'float')[-1]
    capsys.readouterr()
    finetune.main([*FLAGS, '--evaluate', 'logs/a', '--dtype', 'float', '--save', 'logs/e'])
    said = capsys.readouterr().out
    assert f'top-1 error {100 - z["test_acc"]:.2f} %' in said and 'of 64 images' in said
    first, last = runs.read_log('logs/e/log.txt')
    assert first['sha256'] == downloads.sha256_of('logs/a/model.pt7')
    assert 'in the run of' not in said
    finetune.main([*FLAGS, '--evaluate', 'logs/a', '--ten_crop', '--dtype', 'float'])
    said = capsys.readouterr().out
    assert 'top-1 error' in said
    assert '--ten_crop was not given in the run of logs/a/model.pt7, and is True here' in said


def test_a_wrn_is_tested_as_it_was_trained(capsys):
    z = call('logs/a', '--arch', 'wrn-10-1', '--dtype', 'double', source='')[-1]
    capsys.readouterr()
    finetune.main([*FLAGS, '--evaluate', 'logs/a', '--dtype', 'double'])
    assert f'top-1 error {100 - z["test_acc"]:.2f} %' in capsys.readouterr().out
    f, _, params, _ = nets.load_net('logs/a')
    assert folding.fold(params) is params


def test_small_images_are_held_as_they_are_and_augmented_as_by_cifar_py(monkeypatch):
    """Of the net's own size: neither decoded nor resized. A net for large ones resizes them."""
    monkeypatch.setattr(decoded, 'decoded_images', None)
    seen, real = [], arrays.held_images
    monkeypatch.setattr(arrays, 'held_images', lambda x, y, n, *how: (
        seen.append((tuple(x.shape), how[3:])), real(x, y, n, *how))[1])
    flags = ['--dataset', 'shapes', '--per_class', '5', '--validate', '9', '--batch_size', '16',
             '--steps_per_epoch', '2', '--iterations', '2', '--arch']
    finetune.main([*flags, 'wrn-10-1', '--save', 'logs/a'])
    assert runs.read_log('logs/a/log.txt')[-1]['input_size'] == 16
    assert {v for v in seen if v[1][1]} == {((41, 20, 20, 3), (2, True, 32))}
    assert {v[0] for v in seen if not v[1][1]} == {(n, 16, 16, 3) for n in (9, 41, 64)}
    finetune.main([*flags[:3], '4', '--evaluate', 'logs/a'])     # the test set is the same
    with pytest.raises(TypeError):
        finetune.main([*flags, 'resnet18'])


def test_ten_crops_are_averaged():
    f, params = NETS['resnet18'](3)
    x = torch.randn(2, 10, 3, 40, 40)
    got, _ = nets.over_crops(f)(x, params, False)
    expected = torch.stack([f(v, params, False)[0] for v in x]).mean(1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# ---- views --------------------------------------------------------------------------------------

@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def view(image, seed, boxes=None, **how):
    views, labels = decoded.read_batch(image[None], np.array([3]), boxes, 28, how,
                                       torch.tensor([[0, seed]]))
    assert labels.tolist() == [3] and views.dtype == torch.uint8
    return views[0].numpy()


@pytest.mark.parametrize('resize, shape', [('squash', (32, 32)), ('keep', (32, 48))])
def test_views(image, resize, shape):
    """Of the resized image: the central crop, ten crops, a crop of any place."""
    whole = decoded.resize(image, *shape)
    top, left = (shape[0] - 28) // 2, (shape[1] - 28) // 2
    centre = whole[top:top + 28, left:left + 28]
    np.testing.assert_array_equal(view(image, -1, resize=resize), [centre])
    np.testing.assert_array_equal(view(image, 7, resize=resize, crop='centre'), [centre])
    ten = view(image, -1, resize=resize, ten=True)
    assert ten.shape == (10, 28, 28, 3)
    np.testing.assert_array_equal(ten[0], whole[:28, :28])
    np.testing.assert_array_equal(ten[6], whole[-28:, -28:])
    np.testing.assert_array_equal(ten[9], centre[:, ::-1])
    places = set()
    for seed in range(40):
        (crop,) = view(image, seed, resize=resize, crop='place')
        crop = crop[:, ::-1] if seed % 2 else crop
        places |= {(i, j) for i in range(shape[0] - 27) for j in range(shape[1] - 27)
                   if (whole[i:i + 28, j:j + 28] == crop).all()}
    assert len(places) > 12


def test_bounding_boxes_are_cut_out(image):
    box = np.array([[20., 10., 32., 32.], ])
    (crop,) = view(image, -1, boxes=box, resize='squash')
    np.testing.assert_array_equal(crop, image[12:40, 22:50])
    (crop,) = view(image, -1, boxes=np.array([[-5., -5., 37., 37.]]), resize='squash')
    np.testing.assert_array_equal(crop, image[2:30, 2:30])


@pytest.mark.parametrize('kind', ['.png', '.gif', '.jpg'])
def test_images_are_read_whatever_they_are_called(kind, tmp_path):
    from PIL import Image
    Image.fromarray(np.full((20, 30, 3), [200, 100, 50], np.uint8)).save(f'x{kind}')
    pathlib.Path(f'x{kind}').rename('image.jpg')
    got = image_files.read_image('image.jpg')
    assert got.shape == (20, 30, 3) and abs(got[5, 5].astype(int) - [50, 100, 200]).max() < 4


# ---- data sets ----------------------------------------------------------------------------------

@pytest.fixture
def office(tmp_path, monkeypatch):
    """Three classes of shapes as files in two domains."""
    monkeypatch.setattr(layouts, 'OFFICE_CLASSES', 3)
    images, labels, _ = shapes.shapes(120, size=40)
    for i, (x, label) in enumerate(zip(images, labels, strict=True)):
        if label < 3:
            path = tmp_path / 'office' / ('amazon', 'webcam')[i % 7 == 0] / f'c{label}' / f'{i}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), x)
    return ['--dataset', 'office31', '--dataroot', str(tmp_path / 'office'), '--domain', 'amazon',
            '--fraction', '0']


def test_office(office, fails):
    write_net()
    z = call('logs/a', *office, '--target', 'webcam', '--method', 'dan')[-1]
    assert z['num_classes'] == 3 and len(z['at_losses']) == 1
    z = call('logs/b', *office, '--per_class', 4)[-1]     # tested on the rest of the domain
    total = len(list(pathlib.Path('office/amazon').rglob('*.jpg')))
    assert round(z['test_acc'] * (total - 12) / 100, 6).is_integer()
    test = [*office, '--evaluate', 'logs/b', '--per_class', 4, '--save', 'logs/c']
    call('logs/c', *test)
    status, said = fails(finetune.main, *test, '--seed', 1)
    assert status == 2 and 'draw' in said, said
    status, said = fails(finetune.main, *office, '--check_data')
    assert status == 2 and f'{total} images instead of 2,817' in said


def test_folders_and_lists(shapes_folder, tmp_path):
    write_net()
    assert call('logs/a', '--dataset', 'folder', '--dataroot', shapes_folder)[-1]['epoch'] == 2
    for part, there in (('train', 'train'), ('test', 'val')):
        lines = [f'{p} {sorted(shapes.SHAPES).index(p.parent.name)}'
                 for p in sorted(pathlib.Path(shapes_folder, there).rglob('*.jpg'))]
        pathlib.Path(f'{part}.txt').write_text('\n'.join(lines))
    a, b = (call(f'logs/{name}', '--dataset', name, '--dataroot', root, '--dtype', 'float')[-1]
            for name, root in (('folder', shapes_folder), ('list', '.')))
    assert a['test_loss'] == b['test_loss']


WRN_LAYERS = [f'group{j}.block0.conv1' for j in range(3)]      # which DELTA compares


def test_channel_weights_are_kept_and_taken_from_elsewhere(capsys):
    write_net(arch='wrn-10-1')
    flags = ['--method', 'delta', '--channel_weights']
    a = call('logs/a', *flags, 'compute')
    file = pathlib.Path('logs/a/channel_weights.json')
    found = json.loads(file.read_text())
    assert list(found) == WRN_LAYERS
    assert all(sum(v) == pytest.approx(1, abs=1e-5) and min(v) > 0 for v in found.values())
    capsys.readouterr()
    b = call('logs/b', *flags, file)
    assert 'times as fast' not in capsys.readouterr().out
    assert a[-1]['train_loss'] == b[-1]['train_loss']
    growth = [(5 * torch.tensor(v).log()).tolist() for v in found.values()]     # as published
    growth[0][0] = 1e3
    pathlib.Path('growth.json').write_text(json.dumps(growth))
    z = call('logs/e', *flags, 'growth.json')[-1]
    assert z['train_loss'] != a[-1]['train_loss'] and math.isfinite(z['train_loss'])
    uniform = {k: [1 / len(v)] * len(v) for k, v in found.items()}
    pathlib.Path('uniform.json').write_text(json.dumps(uniform))
    c = call('logs/c', *flags, 'uniform.json')[-1]
    plain = call('logs/d', '--method', 'feature_map')[-1]
    assert c['train_loss'] == pytest.approx(plain['train_loss'], rel=1e-3)
    assert c['train_loss'] != pytest.approx(a[-1]['train_loss'], rel=1e-6)


def test_channel_weights_of_another_run_in_the_folder_are_not_taken():
    """Those of a run that was cut off before its first epoch, perhaps with other options."""
    write_net(arch='wrn-10-1')
    pathlib.Path('logs/a').mkdir(parents=True)
    old = {k: [1 / n] * n for k, n in zip(WRN_LAYERS, (16, 32, 64), strict=True)}
    pathlib.Path('logs/a/channel_weights.json').write_text(json.dumps(old))
    call('logs/a', '--method', 'delta', '--channel_weights', 'compute')
    assert json.loads(pathlib.Path('logs/a/channel_weights.json').read_text()) != old


@pytest.mark.parametrize('freeze', fine_tuned_net.FROZEN)
def test_features_with_frozen_parts(freeze):
    write_net(arch='mobilenet_v2')
    z = call('logs/a', '--method', 'feature_map', '--freeze', freeze)[-1]
    assert math.isfinite(z['train_loss'])


def test_a_nin_is_a_source():
    store.write_params(cifar.nin(.1, 13)[1], 'source.pth')
    assert call('logs/a', '--pixels', 'cifar')[-1]['epoch'] == 2


def test_names_of_runs_tell_experiments_apart():
    flags = ['--arch', 'resnet18', '--dataset', 'shapes']
    names = {finetune.parse([*flags, *f]).save for f in ([], ['--lr', '.1'], ['--validate', '5'], [
        '--crop', 'area'], ['--seed', '1'])}
    assert len(names) == 5


def test_a_run_is_a_source_a_teacher_and_a_net_for_imagenet_py(shapes_folder, capsys):
    write_net()
    call('logs/t', '--freeze', 'bn', '--bottleneck', 6, '--pixels', 'tensorflow')
    z = call('logs/s', '--method', 'kd', '--teacher', 'logs/t', source='logs/t')[-1]
    assert (z['input_size'], z['input_pixels']) == (40, 'tensorflow')
    imagenet.main(['--imagenetpath', str(shapes_folder), '--evaluate', 'logs/t', '--nthread', '0'])
    assert '40x40, tensorflow pixels' in capsys.readouterr().out


# ---- what is refused ----------------------------------------------------------------------------

@pytest.mark.parametrize('flags, said', [
    ([], '--source'),
    (['--source', 'nothing.pth'], 'nothing.pth'),
    (['--source', 'source.pth', '--arch', 'resnet50'], 'is resnet18, not --arch resnet50'),
    (['--source', 'nonsense.pth'], 'not a net of this script'),
    (['--source', 'absent.pth', '--dataset', 'dogs'], 'no net absent.pth'),
    (['--arch', 'resnet19'], 'resnet19'),
    (['--arch', 'wrn-11-1'], '6n+4'),
    (['--arch', 'resnet18', '--method', 'l2_sp'], '--source'),
    (['--source', 'source.pth', '--method', 'delta'], '--channel_weights'),
    (['--source', 'source.pth', '--channel_weights', 'compute'], '--channel_weights'),
    (['--source', 'source.pth', '--method', 'delta', '--channel_weights', 'none.json'],
     'none.json'),
    (['--source', 'source.pth', '--method', 'delta', '--channel_weights', 'other.json'],
     'other layers'),
    (['--source', 'source.pth', '--method', 'at'], '--teacher'),
    (['--source', 'source.pth', '--method', 'kd', '--teacher', 'source.pth'],
     'has 13 classes, the data set has 10'),
    (['--source', 'source.pth', '--teacher', 'source.pth'], '--teacher'),
    (['--source', 'source.pth', '--method', 'dan'], '--target'),
    (['--source', 'source.pth', '--method', 'dan', '--domain', 'shifted', '--shift', '.5'],
     'without --domain'),
    (['--source', 'source.pth', '--box'], '--box'),
    (['--source', 'source.pth', '--fraction', '1.5'], '--fraction'),
    (['--source', 'source.pth', '--per_class', '3'], '--fraction'),
    (['--source', 'source.pth', '--steps_per_epoch', '3'], 'not a multiple'),
    (['--source', 'source.pth', '--alpha', '-1'], '--alpha'),
    (['--source', 'source.pth', '--validate', '1000'], '--validate'),
    (['--source', 'source.pth', '--at_groups', '[7]', '--method', 'at', '--teacher', 'ten.pth'],
     '--at_groups'),
    (['--arch', 'resnet18', '--freeze', 'bn'], '--freeze'),
    (['--source', 'source.pth', '--schedule', 'exp', '--epoch_step', '[]'], '--epoch_step'),
    (['--arch', 'wrn-16-1.5.2'], 'wrn-depth-width'),
    (['--arch', 'alexnet'], 'larger --size'),
    (['--source', 'source.pth', '--bottleneck', '-3'], '--bottleneck'),
    (['--source', 'source.pth', '--method', 'ddc', '--shift', '1', '--bottleneck', '0'],
     'bottleneck'),
    (['--source', 'source.pth', '--dropout', '1'], '--dropout'),
    (['--source', 'source.pth', '--dropout', '.5', '--bottleneck', '0'], '--dropout'),
    (['--source', 'source.pth', '--mmd', 'linear'], 'for dan'),
    (['--source', 'source.pth', '--alpha', '5'], '--alpha'),
    (['--source', 'source.pth', '--positions', 'sum'], '--positions'),
    (['--source', 'source.pth', '--temperature', '2'], 'for kd'),
    (['--source', 'source.pth', '--method', 'ast', '--channel_attention', 'se'], 'for afd'),
    (['--source', 'source.pth', '--at_groups', '[]', '--method', 'at', '--teacher', 'ten.pth'],
     '--at_groups'),
    (['--source', 'source.pth', '--at_groups', '[-1,3]', '--method', 'at', '--teacher', 'ten.pth'],
     'name each once'),
    (['--source', 'source.pth', '--at_groups', '[3]', '--method', 'at', '--teacher', 'wrn.pth'],
     'its teacher has 3 groups'),
    (['--source', 'nin.pth', '--method', 'feature_map'], 'no known layers to compare'),
    (['--source', 'source.pth', '--method', 'delta', '--channel_weights', 'strange.json'],
     'strange.json'),
    (['--evaluate', 'source.pth'], 'has 13 classes'),
    (['--source', 'source.pth', '--dataset', 'office31'], '--domain'),
    (['--source', 'source.pth', '--dataset', 'dogs'], '--download'),
    (['--source', 'source.pth', '--dataset', 'mit67', '--download'], 'indoor.html'),
])
def test_bad_input(flags, said, fails):
    write_net()
    write_net('ten.pth', classes=10)
    torch.save({'a': torch.zeros(3)}, 'nonsense.pth')
    pathlib.Path('other.json').write_text('{"a": [0.5, 0.5]}')
    pathlib.Path('strange.json').write_text('{"a": {}}')
    write_net('wrn.pth', 'wrn-10-1', 10)
    store.write_params(cifar.nin(.1, 10)[1], 'nin.pth')
    status, error = fails(finetune.main, *FLAGS, *flags)
    assert status == 2 and said in error and len(error.splitlines()) == 1
    assert not list(pathlib.Path('.').glob('logs/**/log.txt'))


def test_missing_and_unreadable_files(office, fails, tmp_path):
    write_net()
    root = tmp_path / 'office'
    (root / 'amazon/c1/7.jpg').parent.mkdir(exist_ok=True)
    next((root / 'webcam/c1').iterdir()).write_bytes(b'no image')
    flags = [*FLAGS, '--source', 'source.pth', *office]
    status, said = fails(finetune.main, *flags, '--target', 'webcam')
    assert status == 2 and 'are missing or cannot be read' in said and 'webcam/c1' in said
    for file in (root / 'webcam/c1').iterdir():
        file.unlink()
    (root / 'webcam/c1').rmdir()
    status, said = fails(finetune.main, *flags, '--target', 'webcam')
    assert status == 2 and 'has 2 class folders' in said
    status, said = fails(finetune.main, *flags, '--target', 'dslr')
    assert status == 2 and 'dslr' in said
    pathlib.Path('train.txt').write_text('not_there.jpg 0\n')
    status, said = fails(finetune.main, *flags, '--dataset', 'list', '--dataroot', '.', '--domain',
                         'train')
    assert status == 2 and 'not_there.jpg' in said


def test_check_data_says_what_is_missing(fails):
    status, said = fails(finetune.main, '--dataset', 'dogs', '--dataroot', '.', '--check_data')
    assert status == 2 and 'train_list.mat' in said and official.PAGES['dogs'] in said


def test_download_comes_before_the_check(monkeypatch, fails):
    fetched = []
    monkeypatch.setattr(image_sets, 'download_set', lambda *a: fetched.append(a))
    status, _ = fails(finetune.main, '--dataset', 'cub', '--dataroot', '.', '--check_data',
                      '--download')
    assert status == 2 and fetched == [('cub', '.')]


def test_two_processes(capfd):
    write_net()
    finetune.main([*FLAGS, '--source', 'source.pth', '--method', 'dan', '--shift', '.5', '--ngpu',
                   '2', '--save', 'logs/a', '--dataset', 'shapes'])
    assert 'is finished: 2 epochs' in capfd.readouterr().out
    assert runs.read_log('logs/a/log.txt')[0]['processes'] == 2
