"""bench.py: what it compares is equal, and it prints what it says."""
import contextlib
import re
import types

import numpy as np
import pytest
import torch

import bench
import bench_finetune
import bench_imagenet
from data import arrays, cifar_sets
from engine import clock, graphs, measuring, script, step
from methods import teaching

SMALL = ['cifar', '--rounds', '1', '--steps', '1', '--images', '16', '--batch_size', '4',
         '--nthread', '1', '--dtype', 'float', '--cases']


@pytest.fixture
def like_gpu(monkeypatch):
    """Graphs are calls, after those that warm up; processes are this one; nothing is compiled, and
    what would be is added to the list that this gives."""
    compiled = []

    def capture(works, pool):
        return lambda: [work() for work in works]

    @contextlib.contextmanager
    def children(make, jobs):
        made = {name: make(*what) for name, what in jobs.items()}
        yield lambda name, clock, *rest: clock(*(made[name].get(v, v) for v in rest))

    monkeypatch.setattr(graphs, 'capture', capture)
    monkeypatch.setattr(measuring, 'children', children)
    monkeypatch.setattr(torch, 'compile', lambda f: compiled.append(f) or f)
    monkeypatch.setattr(bench, 'CUDA', True)
    return compiled


@pytest.mark.parametrize('case', ['10-1', '10-1:16-2', '10-1:16-2:kd'])
def test_both_ways_give_the_same_loss_and_gradients(case):
    f_s, f_t, params = bench.nets(case)
    params = {k: v.detach().double().requires_grad_(v.requires_grad) for k, v in params.items()}
    inputs, targets = torch.randn(8, 3, 32, 32).double(), torch.randint(10, (8,))

    def gradients(objective, dtype, *more):
        p = {k: v.detach().to(dtype).requires_grad_(v.requires_grad) for k, v in params.items()}
        loss, logits, parts = objective(p, inputs.to(dtype), targets, *more)
        loss.backward()
        return [loss.detach(), logits.detach(), [v.detach() for v in parts], p,
                {k: v.grad for k, v in p.items() if v.requires_grad}]

    opt = bench.options(case)
    published = bench.published_objective(opt, f_s, f_t)
    ours = teaching.make_objective(opt, f_s, f_t)
    for dtype, bound in ((torch.double, 1e-9), (torch.float32, 1e-4)):
        a = gradients(published, dtype)
        b = gradients(ours, dtype, True, torch.tensor(opt.beta, dtype=dtype))
        if not opt.beta:        # then the published way alone computes losses that weigh nothing
            assert b[2] == []
            a[2] = []
        torch.testing.assert_close(b, a, rtol=bound, atol=bound)
        assert len(b[2]) == (3 if f_t and opt.beta else 0)
        assert a[4]['student.conv0'].abs().max() > 0


def test_both_augmentations_are_equal():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
    top, left = rng.integers(0, 9, (2, 9))
    flip = rng.integers(0, 2, 9).astype(bool)
    one_by_one = [bench.augment(*draws) for draws in zip(images, top, left, flip, strict=True)]
    padded = torch.from_numpy(arrays.pad_reflect(images, bench.PAD))
    whole = arrays.crop_flip(padded, torch.arange(9), *map(torch.from_numpy, (top, left, flip)),
                             32, 32)
    whole = arrays.normalise(whole, torch.tensor([cifar_sets.MEAN, cifar_sets.STD]))
    np.testing.assert_allclose(whole.numpy(), np.stack(one_by_one), rtol=1e-6, atol=1e-6)


def read_table(capfd):
    """The first line, the titles, the rows: [case, way, numbers, share of time idle]."""
    head, titles, *rows = capfd.readouterr().out.splitlines()
    assert re.split(r'  +', titles)[:10] == ['case', 'way', 'images/s', 'ratio', 'no data', 'ratio',
                                             'GFLOP', 'of peak', 'MB', 'idle']
    split = [re.fullmatch(r'(\S+) +(.*?) +([\d. ]+)%( +[\d.]+)(.*)', row).groups() for row in rows]
    return head, titles, [(case, way, [float(v) for v in (a + b).split()], rest.split())
                          for case, way, a, b, rest in split]


def test_prints_a_row_for_each_way(capfd):
    bench.main([*SMALL, '10-1:10-1'])
    head, titles, rows = read_table(capfd)
    assert 'batch 4, 1 rounds of 1 steps' in head and titles.endswith('idle')
    assert [row[:2] for row in rows] == [('10-1:10-1', 'published'), ('10-1:10-1', 'ours')]
    for _, _, numbers, idle in rows:
        assert len(numbers) == 8 and min(numbers) >= 0 and numbers[1] > 0 and numbers[7] > 100
        assert torch.cuda.is_available() or idle == ['-']


def test_prints_a_row_for_each_way_of_a_gpu(capfd, like_gpu):
    cases = ['10-1', '10-1:10-1:kd']
    bench.main([*SMALL, *cases])
    _, titles, rows = read_table(capfd)
    ways = ['published', 'ours', 'ours, not captured', 'ours, compiled', 'ours, 4 runs at once',
            'ours, 8 runs at once']
    assert titles.endswith('ms') and len(like_gpu) == len(cases)
    assert [row[:2] for row in rows] == [(case, way) for case in cases for way in ways]
    for _, _, (speed, *_), (_, ms) in rows:
        assert float(ms) * speed == pytest.approx(4000, rel=.1)     # both are of a run's 4 images


@pytest.mark.parametrize('ablated', bench.ABLATED)
def test_a_step_less_each_part(ablated, like_gpu, monkeypatch):
    monkeypatch.setattr(script, 'keep_memory', script.keep_memory)
    flags = bench.parse([*SMALL, '10-1', '--ablate'])
    for cuda in (False, True):
        for f in bench.functions(flags, '10-1', bench.ways(flags, cuda)[ablated]).values():
            f()


@pytest.mark.parametrize('way', ['ours', 'ours, 4 runs at once'])
def test_runs_at_once_end_as_each_does_alone(way, like_gpu):
    """The same bits, over more than an epoch; the steps that warm up do not count."""
    flags = bench.parse([*SMALL, '10-1:10-1'])
    way = bench.ways(flags, True)[way]
    made, alone = (bench.trainings(flags, '10-1:10-1', way) for _ in range(2))
    functions = [measuring.steps(made, measuring.taker(True)),
                 *(measuring.steps([t], graphs.in_turn) for t in alone)]
    for _ in range(5):
        for f in functions:
            f()
    ends = [[step.changed_by(t.state) for t in its] for its in (made, alone)]
    assert len(made) == way['runs']
    for a, b in zip(*ends, strict=True):
        assert all(map(torch.equal, a, b))
    assert all(not torch.equal(ends[0][0][0], other[0]) for other in ends[0][1:])


def test_time_of_kernels_that_overlap():
    assert clock.covered([(5, 6), (0, 4), (1, 2), (3, 5)]) == 6 and not clock.covered([])


@pytest.mark.parametrize('loop, flags, message', [
    ('cifar', ['--cases', '16-1:'], 'student:teacher'), ('cifar', ['--cases', '11-1'], 'depth'),
    ('cifar', ['--cases', '16-1:kd'], 'student:teacher'), ('cifar', ['--rounds', '0'], 'rounds'),
    ('cifar', ['--steps', '-1'], 'steps'), ('cifar', ['--nthread', '-1'], 'nthread'),
    ('finetune', ['--round_channels', '0'], 'round_channels'),
    ('finetune', ['--size', '0'], 'size'),
    ('finetune', ['--nets', 'foo'], '--nets foo: choose from resnet18'),
    ('finetune', ['--nets', 'wrn-11-1'], '--nets wrn-11-1: the depth'),
    ('finetune', ['--nets', 'alexnet', '--size', '16'], 'too few')])
def test_bad_flags(fails, monkeypatch, loop, flags, message):
    monkeypatch.setattr(bench_finetune, 'METHODS', ('l2',))
    status, said = fails(bench.main, loop, *flags)
    assert status == 2 and message in said and len(said.splitlines()) == 1


def test_imagenet_prints_a_row_for_each_way(capfd, shapes_folder, monkeypatch):
    monkeypatch.setattr(bench_imagenet, 'SIZE', 64)
    bench.main(['imagenet', '--rounds', '1', '--steps', '1', '--images', '2', '--batch_size', '2',
                '--dtype', 'float', '--imagenetpath', str(shapes_folder)])
    head, titles, *rows = capfd.readouterr().out.splitlines()
    assert 'ours in float' in head and titles.split() == ['what', 'way', 'images/s', 'ratio', 'of',
                                                                'peak']
    said = rows.pop(4)
    assert 'grey levels' in said and 0 <= float(said.split(':')[1].split()[0]) < .5
    assert [row.split()[0] for row in rows] == 4 * ['input'] + [
        task for task in ('training', 'AT', 'inference') for _ in range(2)]
    for row in rows:
        numbers = re.findall(r'\d+\.?\d*', row)
        assert len(numbers) == (2 if row.startswith('input') else 3)
        assert float(numbers[1]) > 0


def test_imagenet_draws_images_if_it_is_given_none(tmp_path):
    options = types.SimpleNamespace(imagenetpath='', images=3, batch_size=2)
    ways, difference, n = bench_imagenet.inputs(options, str(tmp_path))
    assert n == 3 and difference < .5 and len(ways) == 4
    assert all(w() for w in ways.values())


@pytest.mark.parametrize('task', ['training', 'AT', 'inference'])
def test_both_ways_of_imagenet_compute_the_same(task, monkeypatch):
    """In float, the losses and the parameters after a step, from the same start and images."""
    options = types.SimpleNamespace(batch_size=2)
    monkeypatch.setattr(bench_imagenet, 'SIZE', 64)
    seen, real = [], teaching.make_objective

    def make_objective(opt, f_s, f_t):
        objective = real(opt, f_s, f_t)

        def recorded(params, *rest):
            found = objective(params, *rest)
            seen.append((found[0].detach(), params))
            return found
        return recorded

    monkeypatch.setattr(teaching, 'make_objective', make_objective)
    outputs = []
    for ours in (False, True):
        torch.manual_seed(0)
        outputs.append(bench_imagenet.step_of(options, task, 'float', ours)())
    if task == 'inference':
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
        return
    (loss, params), (other, others) = seen
    torch.testing.assert_close(loss, other, rtol=1e-4, atol=1e-4)
    for k, v in params.items():
        if k.startswith('student.') and v.requires_grad:
            torch.testing.assert_close(v, others[k], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('method', bench_finetune.METHODS)
@pytest.mark.parametrize('graph', [False, True])
def test_a_step_of_each_method(method, graph, like_gpu, monkeypatch):
    take = measuring.taker(graph)
    monkeypatch.setattr(measuring, 'taker', lambda: take)
    flags = bench.parse(['finetune', '--nets', 'wrn-10-1', '--size', '32', '--batch_size', '2',
                         '--dtype', 'float'])
    bench_finetune.step_of(flags, 'wrn-10-1', method)['step']()


def test_finetune_prints_a_row_for_each_method_and_each_size(capfd, monkeypatch):
    monkeypatch.setattr(bench_finetune, 'METHODS', ('l2', 'delta'))
    bench.main(['finetune', '--nets', 'wrn-10-2', '--size', '32', '--rounds', '1', '--steps', '1',
                '--batch_size', '2', '--dtype', 'float'])
    rows = [s.split() for s in capfd.readouterr().out.splitlines()[2:]]
    methods, sizes = rows[:len(bench_finetune.METHODS)], rows[len(bench_finetune.METHODS) + 1:]
    assert [r[1] for r in methods] == list(bench_finetune.METHODS)
    assert methods[0][3] == '1.00' and all(float(v) > 0 for r in methods for v in r[2:])
    assert [float(r[1]) for r in sizes] == pytest.approx([1, .5, .5, .25, .25], abs=.02)
    assert [r[2] for r in sizes] == ['1', '1', '8', '1', '8']
    assert sizes[0][4] == '1.00' and all(float(v) > 0 for r in sizes for v in r[3:5])
    assert sizes[2][5:] == ['0', 'of', '3'] and int(sizes[3][5]) > 0
