"""Nets, objectives and the command line of cifar.py."""
import math
import re

import pytest
import torch

import cifar
import nets
import utils
from data import arrays, cifar_sets, shapes
from engine import flags, loop, runs, step
from methods import teaching
from weights import folding, formats, store


def count_parameters(params):
    return sum(v.numel() for v in params.values() if v.requires_grad)


@pytest.mark.parametrize('width, bn, pool_relu, count', [
    (1, True, True, 1005642), (.5, True, True, 256298), (1, True, False, 1005642),
    (1, False, True, 1004042), (.5, False, False, 255498)])
def test_parameter_counts_of_nin(width, bn, pool_relu, count):
    assert count_parameters(cifar.nin(width, 10, bn, pool_relu)[1]) == count


NIN = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize('bn, pool_relu', NIN)
def test_nin_follows_from_its_parameters(bn, pool_relu):
    f, params = cifar.nin(.25, 7, bn, pool_relu)
    x = torch.randn(2, 3, 32, 32)
    logits, groups = f(x, params, False)
    assert logits.shape == (2, 7)
    assert [tuple(g.shape) for g in groups] == [(2, 24, 32, 32), (2, 48, 16, 16), (2, 48, 8, 8)]
    assert all((g.min() >= 0) == pool_relu for g in groups)     # what is pooled
    again, classes = nets.net_of(params, 'a file')
    assert classes == 7 and torch.equal(again(x, params, False)[0], logits)
    assert any(utils.is_statistic(k) for k in params) == bn
    assert torch.equal(f(x, folding.fold(params), False)[0], logits)


@pytest.mark.parametrize('depth, width, count', [(16, 1, 175066), (16, 2, 691674),
                                                 (40, 1, 563930), (40, 2, 2243546)])
def test_parameter_counts(depth, width, count):
    _, params = cifar.resnet(depth, width, 10)
    assert count_parameters(params) == count


def test_groups_and_logits():
    f, params = cifar.resnet(10, 1, 7)
    logits, groups = f(torch.randn(2, 3, 32, 32), params, False)
    assert logits.shape == (2, 7)
    assert [tuple(g.shape) for g in groups] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    prefixed = utils.with_prefix(params, 'x.')
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(f(x, params, False)[0], f(x, prefixed, False, 'x.')[0])


def test_net_follows_from_its_parameters():
    for width in (1.5, 1.3, .7, 20 / 49):       # rounded down to whole channels
        f, classes = nets.net_of(cifar.resnet(16, width, 7)[1], 'a file')
        assert classes == 7
        nets.net_of(cifar.nin(width, 7)[1], 'a file')
    params = cifar.resnet(16, 1.3, 7)[1]
    assert f(torch.randn(2, 3, 32, 32), params, False)[0].shape == (2, 7)


class Options:
    """What `make_objective` and the loop ask of the options."""
    alpha, beta, temperature, at_groups = .9, 1000., 4., [0, 1, 2]
    method, at_map, at_mode, beta_decay, epochs = 'at', 'sum2', 'code', 'constant', 10
    lr, weight_decay, epoch_step, lr_decay_ratio, transfer_from = .1, 5e-4, [], .2, 1

    def __init__(self, **options):
        self.dtype = 'float'
        self.__dict__.update(options)


def train(opt, steps, f_t=None, teacher=None, batch_size=32, seed=0, n=512):
    """A short training on shapes -> (f, params with prefixes, losses)."""
    torch.manual_seed(seed)
    f, student = cifar.resnet(10, 1, 10)
    params = step.on_device({**utils.with_prefix(student, 'student.'), **(teacher or {})},
                            opt.dtype, torch.device('cpu'))
    images, labels, _ = shapes.shapes(n)
    images = arrays.held_images(torch.from_numpy(arrays.pad_reflect(images, 4)),
                                torch.from_numpy(labels), batch_size, *arrays.PIXELS['cifar'],
                                pad=4, train=True)
    objective = teaching.student_objective(opt, f, f_t)
    state = step.new_state(objective, params, opt.dtype, opt.weight_decay)
    state.rate.fill_(opt.lr)
    state.weight.fill_(opt.beta)
    losses, rng = [], torch.Generator().manual_seed(seed)
    while len(losses) < steps:
        for batch in images.batches(rng):
            state.sums.zero_()
            step.train_step(state, *batch)
            losses.append((state.sums[step.LOSS] / state.sums[step.IMAGES]).item())
    return f, params, losses[:steps]


def teacher_of(f, params):
    teacher = utils.without_prefix(params, 'student.')
    return f, {k: v.detach() for k, v in utils.with_prefix(teacher, 'teacher.').items()}


def test_objective_is_the_sum_of_its_terms():
    f_s, student = cifar.resnet(10, 1, 10)
    f_t, teacher = cifar.resnet(16, 2, 10)
    params = {**utils.with_prefix(student, 'student.'), **utils.with_prefix(teacher, 'teacher.')}
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
    opt = Options(at_groups=[1, 2])
    loss, logits, parts = teaching.student_objective(opt, f_s, f_t)(params, x, y, True, 1000.)
    y_s, g_s = f_s(x, student, True)
    y_t, g_t = f_t(x, teacher, False)
    at = [utils.at_loss(g_s[i], g_t[i]) for i in (1, 2)]
    torch.testing.assert_close(
        loss, utils.distillation(y_s, y_t, y, 4., .9) + 1000 * sum(at))
    torch.testing.assert_close(torch.stack(parts), torch.stack(at))
    torch.testing.assert_close(logits, y_s)
    loss, _, parts = teaching.student_objective(opt, f_s, f_t)(params, x, y, False, 1000.)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(f_s(x, student, False)[0],
                                                                       y))
    assert parts == []


def both(f_s, f_t):
    """(f, params) of student and teacher in one dict, in double precision."""
    return {k: v.detach().double().requires_grad_(k.startswith('student.'))
            for net, base in ((f_s, 'student.'), (f_t, 'teacher.'))
            for k, v in utils.with_prefix(net[1], base).items()}


def own_gradient(f, params, base, image, label):
    """J of one image's cross-entropy."""
    x = image[None].clone().requires_grad_()
    y = f(x, params, True, base)[0]
    return torch.autograd.grad(torch.nn.functional.cross_entropy(y, label[None]), x)[0][0]


@pytest.mark.parametrize('method', ('grad_at', 'min_l2', 'symmetry'))
def test_gradient_methods_image_by_image(method):
    """Eq. 4 with the square of Eq. 5, Drucker & LeCun's penalty, Eq. 6: one image at a time."""
    student, teacher = cifar.nin(.1, 10, False, False), cifar.nin(.2, 10, False, False)
    params = both(student, teacher)
    x, y = torch.randn(3, 3, 32, 32, dtype=torch.double), torch.tensor([1, 2, 3])
    objective = teaching.student_objective(Options(method=method, alpha=0.), student[0],
                                           teacher[0] if method == 'grad_at' else None)
    loss, logits, parts = objective(params, x, y, True, 7.)
    total = 0
    for image, label in zip(x, y, strict=True):
        target, net = 0, (student[0], params, 'student.')
        if method == 'grad_at':
            target = own_gradient(teacher[0], params, 'teacher.', image, label)
        elif method == 'symmetry':
            target = own_gradient(*net, image.flip(2), label).flip(2)
        total += ((own_gradient(*net, image, label) - target) ** 2).sum() / 2 / 3
    torch.testing.assert_close(parts[0], total)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, y) + 7 * total)
    # beta means the same for another batch size: three times the same images
    again = objective(params, x.repeat(3, 1, 1, 1), y.repeat(3), True, 7.)
    torch.testing.assert_close(again[2][0], parts[0])


@pytest.mark.parametrize('method', ('grad_at', 'min_l2', 'symmetry'))
def test_gradient_methods_reach_the_parameters(method):
    """The gradient of the whole objective against finite differences, along one direction; the
    images are small and the step is, so that hardly a ReLU has its kink in between."""
    torch.manual_seed(0)
    student, teacher = cifar.nin(.1, 10, False, False), cifar.nin(.2, 10, False, False)
    params = both(student, teacher)
    x, y = torch.randn(3, 3, 8, 8, dtype=torch.double), torch.tensor([1, 2, 3])
    opt = Options(method=method, alpha=.5)
    objective = teaching.student_objective(opt, student[0], teacher[0])
    loss = objective(params, x, y, True, 7.)[0]
    names = [k for k in params if k.startswith('student.')]
    gradients = torch.autograd.grad(loss, [params[k] for k in names])
    step = [torch.randn_like(g) * 1e-8 for g in gradients]
    there, back = ({**params, **{k: params[k] + sign * d
                                 for k, d in zip(names, step, strict=True)}} for sign in (1, -1))
    slope = objective(there, x, y, True, 7.)[0] - objective(back, x, y, True, 7.)[0]
    expected = 2 * sum((g * d).sum() for g, d in zip(gradients, step, strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-12)
    assert all(params[k].grad is None for k in params)


@pytest.mark.parametrize('method', ['grad_at', 'symmetry'])
def test_gradient_methods_in_bfloat16(method):
    """What they add to the parameters' gradients points where it does in float."""
    student, teacher = cifar.nin(.2, 10, False, False), cifar.nin(.3, 10, False, False)
    params = {k: v.float().detach().requires_grad_(v.requires_grad)
              for k, v in both(student, teacher).items()}
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    opt = Options(method=method, alpha=0.)
    objective = teaching.student_objective(opt, student[0], teacher[0])
    names, found = [k for k in params if k.startswith('student.')], {}
    for dtype in ('float', 'bfloat16'):
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bfloat16'):
            part = objective(params, x, y, True, 1.)[2][0]
        g = torch.autograd.grad(part, [params[k] for k in names], allow_unused=True)
        found[dtype] = torch.cat([v.flatten() for v in g if v is not None])
    assert torch.cosine_similarity(found['float'], found['bfloat16'], 0) > .99


def test_full_activations_go_through_convolutions_where_widths_differ():
    student, teacher = cifar.resnet(10, 1, 10), cifar.resnet(10, 1, 10)
    for net in (student, teacher):
        net[1].update((k, v.detach()) for k, v in net[1].items())
    assert teaching.regressors(*student, *teacher, 32, [0, 1, 2]) == {}
    teacher = cifar.resnet(16, 2, 10)
    found = teaching.regressors(*student, *teacher, 32, [0, 1, 2])
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        f'regressor.group{i}': (2 * c, c, 1, 1) for i, c in enumerate((16, 32, 64))}
    params = {**utils.with_prefix(student[1], 'student.'), **found,
              **utils.with_prefix(teacher[1], 'teacher.')}
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    opt = Options(method='f_actt', alpha=0., at_groups=[1])
    objective = teaching.student_objective(opt, student[0], teacher[0])
    loss, logits, parts = objective(params, x, y, True, 5.)
    g_s, g_t = (net[0](x, net[1], mode)[1][1] for net, mode in ((student, True), (teacher, False)))
    expected = utils.activation_loss(
        torch.einsum('oi,bihw->bohw', found['regressor.group1'][:, :, 0, 0], g_s), g_t)
    torch.testing.assert_close(parts, [expected])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, y) + 5 * expected)


def test_regressors_are_trained_and_no_part_of_the_net(cifar_run):
    cifar_run('logs/t', '--width', 2)
    flags = ['--teacher_id', 't', '--method', 'f_actt', '--beta', 1, '--dtype', 'float']
    z = cifar_run('logs/whole', *flags, '--epochs', 2)[-1]
    assert z['n_parameters'] == count_parameters(cifar.resnet(10, 1, 10)[1])
    assert z['beta_now'] == .5 and z['beta_decay'] == 'linear'
    first = formats.read_contents('logs/whole/model.pt7')['params']
    assert [k for k in first if k.startswith('regressor.')]
    assert set(store.read_params('logs/whole/model.pt7')) == set(cifar.resnet(10, 1, 10)[1])
    assert cifar_run('logs/u', '--teacher_id', 'whole', '--beta', 1)[-1]['epoch'] == 1


DECAYED = {'constant': [8, 8, 8, 8], 'linear': [8, 6, 4, 2],
           'cosine': [8, 4 + 4 * math.sqrt(.5), 4, 4 - 4 * math.sqrt(.5)], 'step': [8, 4, 4, 2]}


@pytest.mark.parametrize('decay', teaching.DECAYS)
def test_decay_of_beta(decay):
    opt = Options(beta=8., epochs=4, beta_decay=decay, epoch_step=[2, 4], lr_decay_ratio=.5)
    assert [teaching.beta_in(opt, k) for k in (1, 2, 3, 4)] == pytest.approx(DECAYED[decay])


@pytest.mark.parametrize('epochs, steps', [(10, [3, 6, 8]), (5, [2, 3, 4]), (3, [2, 2, 2]),
                                           (1, [2, 2, 2])])
def test_fractions_of_the_epochs_leave_the_first_one_alone(epochs, steps):
    opt = cifar.parse(['--epochs', str(epochs), '--epoch_step', '[0.3,0.6,0.8]'])
    assert opt.epoch_step == steps and loop.learning_rate(opt, 1) == opt.lr


def test_before_transfer_from_the_student_is_alone(cifar_run, monkeypatch):
    cifar_run('logs/t', '--width', 2)
    flags = ['--dtype', 'float', '--epochs', 4]
    alone = cifar_run('logs/alone', *flags)
    load, bases = teaching.load_teacher, []

    def load_watched(*args):
        f, *rest = load(*args)

        def watched(inputs, params, mode, base='', taps=None):
            bases.append(base)
            return f(inputs, params, mode, base, taps)

        return watched, *rest

    monkeypatch.setattr(teaching, 'load_teacher', load_watched)
    late = cifar_run('logs/late', *flags, '--teacher_id', 't', '--beta', 8, '--alpha', .9,
                     '--transfer_from', .5)
    assert [z['beta_now'] for z in late[1:]] == [0, 8, 8 * (1 - 1 / 3), pytest.approx(8 / 3)]
    assert [len(z['at_losses']) for z in late[1:]] == [0, 3, 3, 3]
    same = [z['train_loss'] == y['train_loss'] for z, y in zip(late[1:], alone[1:], strict=True)]
    assert same == [True, False, False, False] and late[-1]['transfer_from'] == 2
    assert bases.count('teacher.') == 3 * 4     # not in the four steps of the first epoch


def test_default_decay():
    flags = ['--teacher_id', 't', '--beta', '1']
    for more, decay in (([], 'constant'), (['--alpha', '.9'], 'linear'),
                        (['--method', 'f_actt'], 'linear'), (['--method', 'grad_at'], 'constant'),
                        (['--alpha', '.9', '--beta_decay', 'step'], 'step'),
                        (['--alpha', '.9', '--method', 'grad_at'], 'constant')):
        assert cifar.parse([*flags, *more]).beta_decay == decay


def test_a_schedule_of_beta_is_not_stretched(cifar_run, fails):
    cifar_run('logs/t')
    flags = ['--teacher_id', 't', '--beta', 1, '--alpha', .5]
    def again(words):
        return cifar_run(*words)

    cifar_run('logs/falls', *flags)
    cifar_run('logs/stays', *flags, '--beta_decay', 'constant')
    assert len(cifar_run('logs/stays', *flags, '--beta_decay', 'constant', '--epochs', 2)) == 3
    status, said = fails(again, 'logs/falls', *flags, '--epochs', 2)
    assert status == 2 and '--epochs was 1, is 2: --beta falls to zero' in said
    status, said = fails(again, 'logs/stays', *flags, '--epochs', 2)
    assert status == 2 and '--beta_decay was constant, is linear' in said


def test_beta_of_each_epoch_is_used_and_logged(cifar_run):
    cifar_run('logs/t')
    flags = ['--teacher_id', 't', '--beta', 8, '--epochs', 4, '--lr', 1e-30, '--dtype', 'float',
             '--randomcrop_pad', 0]
    lines = {decay: cifar_run(f'logs/{decay}', *flags, '--beta_decay', decay)[1:]
             for decay in ('constant', 'linear')}
    assert [z['beta_now'] for z in lines['linear']] == [8, 6, 4, 2]
    for z, y in zip(lines['constant'], lines['linear'], strict=True):   # nothing else differs
        assert z['train_loss'] - y['train_loss'] == pytest.approx(
            (8 - y['beta_now']) * sum(z['at_losses']), abs=1e-4)


@pytest.mark.parametrize('flags', [
    ['--no_pool_relu'], ['--no_bn', '--no_pool_relu', '--method', 'min_l2', '--beta', .01],
    ['--no_bn', '--method', 'symmetry', '--beta', .01, '--randomcrop_pad', 0,
     '--weight_decay', 0, '--deterministic']])
def test_nin_alone_then_as_a_teacher(cifar_run, flags):
    small = ['--model', 'nin', '--depth', 16, '--width', .1, '--lr', .01]   # 16: by default
    z = cifar_run('logs/t', *small, *flags)[-1]
    torch.use_deterministic_algorithms(False)
    assert len(z['at_losses']) == ('--method' in flags) and math.isfinite(z['train_loss'])
    for more in (['--beta', 1, '--at_map', 'max', '--at_mode', 'paper'],
                 ['--alpha', .9, '--method', 'grad_at', '--beta', .01]):
        z = cifar_run(f'logs/s{more[1]}', *small, *more, '--teacher_id', 't')[-1]
        assert z['epoch'] == 1 and all(v > 0 for v in z['at_losses'])


def test_teacher_never_changes():
    f_t, teacher = cifar.resnet(16, 1, 10)
    teacher = {k: v.detach() for k, v in utils.with_prefix(teacher, 'teacher.').items()}
    before = {k: v.clone() for k, v in teacher.items()}
    _, params, _ = train(Options(), 4, f_t, teacher)
    assert all(torch.equal(params[k], v) for k, v in before.items())


def test_teacher_never_changes_in_a_run(cifar_run, monkeypatch):
    """Even one whose file says that it takes gradients."""
    torch.save(cifar.resnet(16, 1, 10)[1], 'teacher.pth')
    seen, real = [], loop.fit

    def fit(trainings, device):
        teacher = utils.without_prefix(trainings[0].state.params, 'teacher.')
        before = {k: v.clone() for k, v in teacher.items()}
        real(trainings, device)
        seen.extend(torch.equal(before[k], v) and not v.requires_grad for k, v in teacher.items())

    monkeypatch.setattr(loop, 'fit', fit)
    z = cifar_run('logs/a', '--teacher_id', 'teacher.pth', '--beta', 100, '--alpha', .5)[-1]
    assert len(seen) > 20 and all(seen)
    assert z['n_parameters'] == count_parameters(cifar.resnet(10, 1, 10)[1])


@pytest.mark.parametrize('taught', [False, True])
def test_bfloat16_follows_float(taught):
    """The mean of the last ten of 50 losses within 2 %, from the same start."""
    f_t, teacher = None, None
    if taught:
        f_t, params, losses = train(Options(alpha=0., beta=0., lr=.05), 120, seed=1, n=160)
        f_t, teacher = teacher_of(f_t, params)
        assert sum(losses[-10:]) / 10 < 1.9    # it has learned something
    last, all_losses = {}, []
    for dtype in ('float', 'bfloat16'):
        _, _, losses = train(Options(dtype=dtype, alpha=0.), 50, f_t, teacher)
        last[dtype] = sum(losses[-10:]) / 10
        all_losses.append(losses)
    assert all_losses[0] != all_losses[1]       # bfloat16 was on
    assert math.isclose(last['float'], last['bfloat16'], rel_tol=.02), last


def test_student_with_a_teacher_can_be_a_teacher(cifar_run):
    cifar_run('logs/a', '--width', 2)
    lines = cifar_run('logs/b', '--depth', 16, '--teacher_id', 'a', '--beta', 1000,
                      '--alpha', .9)
    assert len(lines[-1]['at_losses']) == 3 and all(v > 0 for v in lines[-1]['at_losses'])
    for name in ('b', 'logs/b', 'logs/b/model.pt7'):
        lines = cifar_run(f'logs/from_{name.replace("/", "_")}', '--teacher_id', name,
                          '--beta', 1, '--at_groups', '[2]')
        assert len(lines[-1]['at_losses']) == 1


@pytest.mark.parametrize('prefix', ['', 'student.'])
@pytest.mark.parametrize('as_zip', [True, False])
def test_published_checkpoint_is_a_teacher(cifar_run, prefix, as_zip, tmp_path):
    """As torch.save of the published code writes it, with the teacher's own teacher beside."""
    _, params = cifar.resnet(16, 1, 10)
    params = {k: v.data for k, v in utils.with_prefix(params, prefix).items()}
    if prefix:
        params |= utils.with_prefix(cifar.resnet(10, 2, 10)[1], 'teacher.')
    (tmp_path / 'logs/old').mkdir(parents=True)
    torch.save(dict(params=params, optimizer={'state': {}, 'param_groups': []}, epoch=200),
               'logs/old/model.pt7', _use_new_zipfile_serialization=as_zip)
    lines = cifar_run('logs/new', '--teacher_id', 'old', '--alpha', .9)
    assert lines[-1]['epoch'] == 1


@pytest.mark.parametrize('name', ['net.pth', 'net.hkl'])
def test_export_is_the_student_alone(cifar_run, name):
    cifar_run('logs/t', '--width', 2)
    cifar_run('logs/s', '--teacher_id', 't', '--beta', 1, '--export', name)
    exported = store.read_params(name)
    own = store.read_params('logs/s/model.pt7')
    assert set(exported) == set(own) == set(cifar.resnet(10, 1, 10)[1])
    assert all(torch.equal(exported[k], own[k]) for k in own)
    assert cifar_run('logs/u', '--teacher_id', name, '--beta', 1)[-1]['epoch'] == 1


def test_export_of_a_finished_run(cifar_run, capsys):
    cifar_run('logs/s')
    cifar_run('logs/s', '--export', 'late.pth')
    assert 'finished' in capsys.readouterr().out
    own = store.read_params('logs/s/model.pt7')
    assert all(torch.equal(v, own[k]) for k, v in store.read_params('late.pth').items())


def test_students_of_one_seed_start_alike(cifar_run):
    """With a teacher or without: with no learning to speak of, the parameters stay the same."""
    cifar_run('logs/t')
    still = ['--lr', 1e-30, '--weight_decay', 0, '--seed', 4, '--dtype', 'float']
    cifar_run('logs/a', *still)
    cifar_run('logs/b', *still, '--teacher_id', 't', '--beta', 1)
    a, b = (store.read_params(f'logs/{k}/model.pt7') for k in 'ab')
    for k in a:     # biases start from zero and moved by some 1e-30
        torch.testing.assert_close(a[k], b[k], rtol=0, atol=1e-20)


def test_teachers_error_is_said_first(cifar_run, capsys):
    z = cifar_run('logs/t', '--dtype', 'float')[-1]
    capsys.readouterr()
    cifar_run('logs/a', '--teacher_id', 't', '--beta', 1, '--dtype', 'float')
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f'teacher t: test error {100 - z["test_acc"]:.2f} %'
    cifar_run('logs/b', '--teacher_id', 't', '--beta', 1, '--validate', 32)
    assert capsys.readouterr().out.startswith('teacher t: held-out error ')


def test_name_of_a_run_without_save(cifar_run):
    cifar_run('')
    assert runs.read_log('logs/shapes_resnet_10_1_seed0/log.txt')[-1]['epoch'] == 1
    taught = ['--teacher_id', 'logs/t', '--beta', '1000']
    others = ['', '--at_map max', '--at_map sum', '--at_groups [2]', '--at_mode paper',
              '--beta_decay step', '--alpha .9', '--alpha .9 --beta_decay constant',
              '--method grad_at', '--randomcrop_pad 0']
    assert len({cifar.parse([*taught, *flags.split()]).save for flags in others}) == len(others)


def test_random_crop_takes_effect(cifar_run):
    """Without learning, what differs in the training loss is the crops."""
    losses = [cifar_run(f'logs/{k}', '--randomcrop_pad', pad, '--lr', 1e-30, '--dtype', 'float')
              [-1]['train_loss'] for k, pad in enumerate((0, 2, 4, 4))]
    assert len(set(losses)) == 3 and losses[2] == losses[3]


def test_validation_images_come_from_the_training_set():
    (x, y), _, _ = cifar_sets.load_arrays('shapes')
    train, held, _ = cifar_sets.load_arrays('shapes', validate=50)
    assert len(held[1]) == 50 and len(train[1]) == len(y) - 50
    known = {image.tobytes() for image in x}
    parts = [{image.tobytes() for image in part[0]} for part in (train, held)]
    assert parts[0] | parts[1] == known and not parts[0] & parts[1]
    assert all((a == b).all() for a, b in zip(
        held, cifar_sets.load_arrays('shapes', validate=50)[1], strict=True))


BAD_FLAGS = [
    (['--depth', '15'], '6n\\+4'), (['--depth', '4'], '6n\\+4'), (['--width', '0'], 'width'),
    (['--width', '0.01'], 'no channels'), (['--alpha', '0.9'], 'teacher_id'),
    (['--beta', '1'], 'teacher_id'), (['--teacher_id', 'x', '--alpha', '-1'], '0 to 1'),
    (['--teacher_id', 'x', '--alpha', '2'], '0 to 1'),
    (['--teacher_id', 'x', '--beta', '-1'], 'zero or more'),
    (['--teacher_id', 'x', '--beta', 'nan'], 'zero or more'), (['--temperature', '0'], 'temp'),
    (['--seed', '-1'], 'seed'), (['--seed', '99999999999'], 'seed'),
    (['--batch_size', '0'], 'batch_size'), (['--epochs', '0'], 'epochs'), (['--lr', '0'], 'lr'),
    (['--lr', 'nan'], 'lr'), (['--lr_decay_ratio', '-1'], 'lr_decay'),
    (['--weight_decay', '-1'], 'weight_decay'), (['--validate', '-1'], 'validate'),
    (['--validate', '256'], 'validate'), (['--randomcrop_pad', '-1'], 'randomcrop_pad'),
    (['--randomcrop_pad', '40'], 'randomcrop_pad'), (['--epoch_step', '[60'], 'epoch_step'),
    (['--epoch_step', '60'], 'epoch_step'), (['--epoch_step', '["a"]'], 'epoch_step'),
    (['--epoch_step', '[-1]'], 'epoch_step'),
    (['--epoch_step', '[60.5]'], 'epoch_step'), (['--at_groups', '[3]'], 'at_groups'),
    (['--at_groups', '[1.0]'], 'at_groups'), (['--epoch_step', '[true]'], 'epoch_step'),
    (['--at_groups', '[]'], 'at_groups'), (['--ngpu', '0'], 'ngpu'),
    (['--ngpu', '3'], 'batch_size'),
    (['--export', 'x.txt'], 'x.txt'), (['--dataset', 'MNIST'], 'MNIST'),
    (['--no_bn'], 'nin'), (['--model', 'nin', '--width', '0.001'], 'no channels'),
    (['--model', 'nin', '--depth', '22'], 'nine convolutions'),
    (['--method', 'f_actt', '--teacher_id', 'x'], '--beta'),
    (['--method', 'grad_at', '--beta', '1'], 'teacher_id'),
    (['--method', 'min_l2', '--beta', '1', '--alpha', '.9'], 'teacher_id'),
    (['--method', 'min_l2', '--beta', '1', '--compile'], '--compile'),
    (['--method', 'symmetry', '--beta', '1', '--teacher_id', 'x'], 'no teacher'),
    (['--method', 'fitnets'], 'fitnets'), (['--at_map', 'sum3'], 'sum3'),
    (['--beta_decay', 'slow'], 'slow'), (['--transfer_from', '2'], 'teacher_id'),
    (['--transfer_from', '0'], 'invalid epoch'),
    (['--teacher_id', 'x', '--beta', '1', '--transfer_from', '300'], 'only 200 epochs'),
    (['--depth', 'x'], 'depth'), (['--dept', '16', '--no_such_flag'], 'no_such_flag'),
]


@pytest.mark.parametrize('flags, message', BAD_FLAGS)
def test_bad_flags(fails, flags, message, tmp_path):
    status, said = fails(cifar.main, '--dataset', 'shapes', *flags)
    assert status == 2 and len(said.splitlines()) == 1
    assert re.search(message, said), said
    assert list(tmp_path.iterdir()) == []


def test_bad_depth_is_said_before_anything_is_downloaded(fails, monkeypatch):
    monkeypatch.setattr(cifar_sets, 'load_arrays', lambda *a: pytest.fail('too late'))
    assert fails(cifar.main, '--depth', 15)[0] == 2


def test_unknown_teacher_lists_those_there_are(fails, cifar_run):
    cifar_run('logs/good')
    status, said = fails(cifar.main, '--dataset', 'shapes', '--teacher_id', 'goood', '--beta', 1)
    assert status == 2 and 'goood' in said and 'Runs under logs/: good' in said


def test_teacher_of_another_data_set(fails):
    store.write_params(cifar.resnet(10, 1, 100)[1], 'hundred.pth')
    status, said = fails(cifar.main, '--dataset', 'shapes', '--teacher_id', 'hundred.pth',
                         '--beta', 1)
    assert status == 2 and '100 classes' in said and '10' in said


def test_teacher_of_another_architecture(fails):
    params = cifar.resnet(10, 1, 10)[1]
    store.write_params({'features.0.weight': torch.ones(3)}, 'other.pth')
    store.write_params({k: v for k, v in params.items() if k != 'bn.weight'}, 'broken.pth')
    store.write_params(params | {'fc.bias': torch.tensor(1.)}, 'scalar.pth')
    for name, key in (('other.pth', 'features.0.weight'), ('broken.pth', 'bn.weight'),
                      ('scalar.pth', 'fc.bias')):
        status, said = fails(cifar.main, '--dataset', 'shapes', '--teacher_id', name,
                             '--beta', 1)
        assert status == 2 and key in said


def test_every_flag_has_help(monkeypatch):
    parsers, real = [], flags.make_parser
    monkeypatch.setattr(flags, 'make_parser', lambda doc: parsers.append(real(doc))
                        or parsers[0])
    cifar.parse([])
    actions = parsers[0]._actions
    assert len(actions) > 25 and all(a.help for a in actions)
