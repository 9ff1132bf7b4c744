"""Learned attention of AFD and AFA: against loops in double precision, and within fine-tuning."""
import itertools
import math
import pathlib

import pytest
import torch
from helpers import FLAGS, call, objective_of, student, write_net

import finetune
import imagenet
import nets
import tables
import utils
from engine import runs
from methods import attentive, from_source, losses
from weights import store

B, C, H, W = 3, 5, 4, 6


def features(seed=0):
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.double)


def entries(kind, c=C, h=H, w=W):
    torch.manual_seed(0)
    return {f'attention.a.{k}': v.double() + .1 * torch.randn(v.shape, dtype=torch.double)
            for k, v in kind(c, h, w).items()}


def softmax(values):
    e = [math.exp(v - max(values)) for v in values]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize('kind', [attentive.afd_entries, attentive.act_entries])
def test_channel_attention_is_a_loop(kind):
    x, params = features(), entries(kind)
    get = {k.removeprefix('attention.a.'): v for k, v in params.items()}
    assert get['hidden.weight'].shape == (H, H * W) and get['bias'].shape == (C,)
    assert ('hidden.bias' in get) == (kind is attentive.afd_entries)
    got = attentive.channel_attention(x, params, 'attention.a')
    for b in range(B):
        scores = []
        for c in range(C):
            flat = x[b, c].flatten().tolist()
            hidden = [max(0, sum(v * w for v, w in zip(flat, row, strict=True)) + bias)
                      for row, bias in zip(get['hidden.weight'].tolist(),
                                           get.get('hidden.bias', torch.zeros(H)).tolist(),
                                           strict=True)]
            scores.append(sum(v * w for v, w in zip(hidden, get['out.weight'][0].tolist(),
                                                    strict=True)) + get['bias'][c].item())
        assert got[b].tolist() == pytest.approx(softmax(scores))
    torch.testing.assert_close(got.sum(1), torch.ones(B, dtype=torch.double))


def test_squeeze_and_excitation():
    x, params = features(), entries(attentive.squeeze_entries)
    get = {k.removeprefix('attention.a.'): v for k, v in params.items()}
    got = attentive.channel_attention(x, params, 'attention.a')
    mean = x.mean((2, 3))
    hidden = (mean @ get['squeeze.weight'].T + get['squeeze.bias']).clamp(0)
    p = 1 / (1 + torch.exp(-(hidden @ get['excite.weight'].T + get['excite.bias'])))
    torch.testing.assert_close(got.double(), p / p.sum(1, keepdim=True), rtol=1e-5, atol=0)


def test_spatial_attention_is_a_loop():
    x, params = features(), entries(attentive.ast_entries)
    get = {k.removeprefix('attention.a.'): v for k, v in params.items()}
    got = attentive.spatial_attention(x, params, 'attention.a')
    assert got.shape == (B, H, W)
    for b in range(B):
        mean = [sum(x[b, c, p, q].item() for c in range(C)) / C
                for p in range(H) for q in range(W)]
        hidden = [max(0, sum(v * w for v, w in zip(mean, row, strict=True)))
                  for row in get['hidden.weight'].tolist()]
        scores = [sum(v * w for v, w in zip(hidden, row, strict=True)) + bias for row, bias in
                  zip(get['out.weight'].tolist(), get['out.bias'].tolist(), strict=True)]
        assert got[b].flatten().tolist() == pytest.approx(softmax(scores))


def outputs(x):
    return losses.Outputs(None, None, {'a': x})


def batch(opt, params, source, target):
    """Features of a source and a target as a method sees them."""
    return losses.Batch(opt, params, None, None, None, outputs(target), outputs(source))


@pytest.mark.parametrize('method', ['afd', 'ast', 'act'])
def test_regularisers_are_loops(method):
    """As the codes have them: the sums of the equations, averaged over the batch."""
    x, y = features(0), features(1)
    params = entries(getattr(attentive, f'{method}_entries'))
    opt = finetune.parse(['--source', 'x', '--method', method])
    (got,), (entropy,) = losses.METHODS[method].losses(batch(opt, params, x, y))
    expected = 0
    if method == 'ast':
        a = attentive.spatial_attention(x, params, 'attention.a')
        for b in range(B):
            for c in range(C):
                for p in range(H):
                    for q in range(W):
                        expected += (H * W * a[b, p, q] * (y - x)[b, c, p, q]) ** 2 / 2 / B
    else:
        a = attentive.channel_attention(x, params, 'attention.a')
        for b in range(B):
            for c in range(C):
                square = sum(d * d for d in (y - x)[b, c].flatten())
                expected += a[b, c] * square / B * (1 if method == 'afd' else C / 2)
    torch.testing.assert_close(got, expected)
    p = a.flatten(1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(1).mean() / math.log(p.shape[1]))


def test_one_stage_of_afa_is_the_sum_of_both():
    x, y = features(0), features(1)
    opt = finetune.parse(['--source', 'x', '--method', 'ast_act'])
    params = entries(attentive.both_entries)
    ((one,), entropies), expected = (losses.METHODS['ast_act'].losses(batch(opt, params, x, y)), [])
    for part in ('ast', 'act'):
        its = {k.replace(f'.{part}.', '.'): v for k, v in params.items() if f'.{part}.' in k}
        expected.append(losses.METHODS[part].losses(batch(opt, its, x, y)))
    ((a,), of_a), ((b,), of_b) = expected
    torch.testing.assert_close((one, entropies), (a + b, [*of_a, *of_b]))


@pytest.mark.parametrize('method, factor', [('afd', 2 / C), ('ast', 1), ('act', 1)])
def test_uniform_attention_is_the_plain_distance(method, factor):
    x, y = features(0), features(1)
    params = {k: torch.zeros_like(v)
              for k, v in entries(getattr(attentive, f'{method}_entries')).items()}
    opt = finetune.parse(['--source', 'x', '--method', method])
    (got,), (entropy,) = losses.METHODS[method].losses(batch(opt, params, x, y))
    plain = from_source.feature_distance({'a': x}, {'a': y}, positions='sum')
    torch.testing.assert_close(got, factor * plain)
    assert entropy.item() == pytest.approx(1)


@pytest.mark.parametrize('method, arch', [
    *itertools.product(['afd', 'ast', 'act'], ['resnet50', 'mobilenet_v2']),
    ('ast_act', 'mobilenet_v2')])
def test_gradients_reach_attention_and_target_and_never_the_source(method, arch):
    opt, f, params, layers, x, y = objective_of(method, arch=arch)
    source = utils.without_prefix(params, 'teacher.')
    attention = attentive.attention_of(opt, f, source, layers, 40, torch.Generator())
    parts = ['.ast', '.act'] if method == 'ast_act' else ['']
    bases = [f'attention.{k}{part}' for k in layers for part in parts]
    assert {k.split('.hidden')[0] for k in attention if 'hidden' in k} == set(bases)
    params = {k: v.detach().requires_grad_(not utils.is_statistic(k)) for k, v in params.items()}
    params |= {k: v.detach().double().requires_grad_() for k, v in attention.items()}
    objective = losses.make_objective(opt, f, f, layers, [(method, None)])
    loss, _, logged = objective(params, x, y, True, torch.tensor(1.))
    assert len(logged) == 1 + len(bases)
    loss.backward()
    got = {k for k, v in params.items() if v.grad is not None}
    assert not any(k.startswith('teacher.') for k in got)
    assert {k for k in params if k.startswith('attention.')} <= got
    assert {k for k in params if k.startswith('student.') and not utils.is_statistic(k)} <= got
    assert params[f'{bases[-1]}.out.weight'].grad.abs().sum() > 0


def test_attention_is_trained_and_is_no_part_of_the_net():
    write_net()
    z = call('logs/a', '--method', 'afd', '--export', 'out.pth', '--alpha', .001)[-1]
    assert len(z['at_losses']) == 1 and len(z['attention_entropy']) == 4
    assert all(0 < v <= 1 for v in z['attention_entropy'])
    assert any(k.startswith('attention.') for k in student('logs/a'))
    assert not any(k.startswith('attention.') for k in store.read_params('out.pth'))
    momenta = torch.load('logs/a/model.pt7', weights_only=True)['momenta']
    assert sum(k.startswith('attention.') and bool(v.any()) for k, v in momenta.items()) == 16
    call('logs/s', '--method', 'afd', '--channel_attention', 'se', '--normalize_features')
    assert any('excite' in k for k in student('logs/s'))


@pytest.mark.parametrize('method', ['ast', 'ast_act'])
def test_attention_can_be_fixed_to_the_mean_over_images(method, monkeypatch):
    """With a learning rate of nearly zero the logged entropy is that of the mean; it stays in
    training, and a continued run goes on with it."""
    write_net()
    flags = ['--method', method, '--alpha', 1e-4, '--dtype', 'double']
    call('logs/a', *flags)
    seen, real = [], attentive.spatial_attention
    monkeypatch.setattr(attentive, 'spatial_attention', lambda x, params, base: seen.append(
        (base, real(x, params, base))) or seen[-1][1])
    call('logs/b', *flags, '--fixed_attention', 'logs/a', '--iterations', 2)
    fixed = {k: v for k, v in student('logs/b').items() if k.startswith('attention.')}
    maps = {k: torch.cat([a for base, a in seen if f'{base}.fixed' == k])
            for k in fixed if not k.endswith('.act.fixed')}
    assert len(maps) == 4 and len(fixed) == (4 if method == 'ast' else 8)
    for k, v in fixed.items():
        torch.testing.assert_close(v.sum(), torch.ones((), dtype=v.dtype))
        if k in maps:
            assert maps[k].std(0).max() > 0     # of images that differ
            torch.testing.assert_close(v, maps[k].mean(0))
    z = call('logs/b', *flags, '--fixed_attention', 'logs/a')[-1]
    assert all(v.equal(student('logs/b')[k]) for k, v in fixed.items())
    assert z['attention_entropy'][:4] == pytest.approx([
        attentive.entropy(maps[k][None].mean(1)).item() for k in maps])


def test_fixed_attention_is_that_of_the_same_method(fails):
    write_net()
    call('logs/a', '--method', 'ast', '--alpha', 1e-4)
    call('logs/l2')
    for method, run, message in (('act', 'logs/a', 'of another architecture'),
                                 ('l2', 'logs/a', 'has no effect with --method l2'),
                                 ('ast', 'source.pth', 'not a checkpoint of a run')):
        status, said = fails(finetune.main, *FLAGS, '--source', 'source.pth', '--method', method,
                             '--fixed_attention', run, '--save', 'logs/b')
        assert status == 2 and message in said and not pathlib.Path('logs/b').exists()


def test_stage_two_starts_from_stage_one():
    """With its last layer, and with it as the source: at first there is no distance but by batch
    normalisation in training."""
    write_net()
    call('logs/ast', '--method', 'ast', '--alpha', .001)
    one = store.read_params('logs/ast/model.pt7')
    z = call('logs/act', '--method', 'act', '--keep_head', '--lr', 1e-9, '--freeze', 'bn',
             '--dtype', 'float', '--export', 'two.pth', source='logs/ast')[-1]
    two = store.read_params('two.pth')
    assert set(one) == set(two)
    for k, v in one.items():
        torch.testing.assert_close(two[k], v, rtol=1e-5, atol=1e-6)
    assert z['at_losses'][0] == pytest.approx(0, abs=1e-6)


def test_stage_two_can_keep_the_source_of_stage_one(fails):
    """A --teacher of other classes: from the net of stage one, features are not at a distance of
    zero from it; and it is the same net as the source."""
    write_net()
    call('logs/ast', '--method', 'ast', '--alpha', .001)
    flags = ['--method', 'act', '--keep_head', '--lr', 1e-9, '--freeze', 'bn', '--dtype', 'float']
    z = call('logs/act', *flags, '--teacher', 'source.pth', source='logs/ast')[-1]
    assert z['at_losses'][0] > 1e-3
    write_net('other.pth', 'mobilenet_v2')
    status, said = fails(finetune.main, *FLAGS, '--source', 'source.pth', '--method', 'act',
                         '--teacher', 'other.pth')
    assert status == 2 and 'cannot be compared' in said


def test_stage_two_wants_the_classes_of_stage_one(fails):
    write_net()
    status, said = fails(finetune.main, *FLAGS, '--source', 'source.pth', '--keep_head')
    assert status == 2 and 'has 13 classes' in said


def test_a_continued_run_goes_on_with_its_attention():
    write_net()
    flags = ['--method', 'act', '--alpha', .001]
    call('logs/whole', *flags)
    call('logs/parts', *flags, '--iterations', 2)
    call('logs/parts', *flags)
    a, b = student('logs/whole'), student('logs/parts')
    assert any(k.startswith('attention.') for k in a) and all(v.equal(b[k]) for k, v in a.items())


def test_rows_of_afas_table_run(capsys):
    """Those of one net and data set, a few steps on shapes, with a small net: stage two from the
    run of stage one."""
    for name, classes in (('resnet101', 13), ('afa_resnet101.pth', 10)):
        write_net('new.pth', 'resnet50', classes)
        pathlib.Path('new.pth').rename(name)
    some = [words for words in tables.commands('afa', 'logs', 1)
            if words[2].startswith(('logs/afa/resnet101_dogs_a', 'logs/afa/resnet101_released'))]
    assert len(some) == 3
    for words in some:
        alpha = [] if '--evaluate' in words else ['--alpha', '1e-5']
        finetune.main([*words[1:], *FLAGS, *alpha, '--lr', '1e-4'])
        said = capsys.readouterr().out
        assert ('top-1' if '--evaluate' in words else 'is finished: 2 epochs') in said
    assert runs.read_log('logs/afa/resnet101_dogs_act/seed0/log.txt')[-1]['source'] == \
        'logs/afa/resnet101_dogs_ast/seed0'


def test_files_of_afa_are_read():
    """{'model': torchvision's entries}, with counters of batches."""
    _, params = imagenet.define_student(50, .0625, 10)
    torch.save({'model': {**params, 'bn1.num_batches_tracked': torch.tensor(3)}, 'epoch': 5},
               'released.pth')
    f, classes, read, _ = nets.load_net('released.pth')
    assert classes == 10 and set(read) == set(params)
