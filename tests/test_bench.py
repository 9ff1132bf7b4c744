"""bench.py: what it compares is equal, and it prints what it says."""
import contextlib
import functools

import numpy as np
import pytest
import torch

import bench
import cifar
import imagenet
import utils
from data import arrays
from engine import graphs, script, step
from methods import published, teaching
from system import clock
from utils import InputError
from weights import store

SMALL = ['cifar', '--rounds', '1', '--steps', '1', '--images', '16', '--batch_size', '4',
         '--nthread', '1', '--dtype', 'float', '--cases']


@pytest.fixture
def in_process(monkeypatch):
    """Processes are this one."""
    @contextlib.contextmanager
    def children(jobs):
        made = {name: make() for name, make in jobs.items()}
        yield lambda name, measure, *args: measure(made[name], *args)

    monkeypatch.setattr(clock, 'children', children)


@pytest.fixture
def like_gpu(monkeypatch, in_process):
    """Graphs are calls, after those that warm up; nothing is compiled, and what would be is added
    to the list that this gives."""
    compiled = []

    def capture(works, pool):
        return lambda: [work() for work in works]

    monkeypatch.setattr(graphs, 'capture', capture)
    monkeypatch.setattr(torch, 'compile', lambda f: compiled.append(f) or f)
    monkeypatch.setattr(bench, 'CUDA', True)
    return compiled


NETS = {'cifar': lambda depth: cifar.resnet(depth, 1, 10),
        'imagenet': lambda depth: imagenet.define_student(depth, .125, 10)}


@pytest.mark.parametrize('net, beta', [('cifar', 1e3), ('cifar', 0), ('cifar', None),
                                       ('imagenet', 1e3)])
def test_both_ways_give_the_same_loss_and_gradients(net, beta):
    """By AT+KD, KD alone, and without a teacher."""
    (f_s, student), (f_t, teacher) = map(NETS[net], (10, 16) if net == 'cifar' else (18, 34))
    flags = ['--lr', '1e-3'] if beta is None else ['--alpha', '.9', '--beta', str(beta)]
    flags += ['--teacher_id', 'x'] if beta is not None and net == 'cifar' else []
    flags += ['--teacher_params', 'x', '--imagenetpath', '-'] if net == 'imagenet' else []
    opt = {'cifar': cifar, 'imagenet': imagenet}[net].parse(flags)
    f_t = None if beta is None else f_t
    inputs, targets = torch.randn(8, 3, 32, 32).double(), torch.randint(10, (8,))
    for dtype, bound in ((torch.double, 1e-9), (torch.float32, 1e-4)):
        found = []
        for way in ('published', 'ours'):
            own, other = ({k: v.detach().to(dtype).requires_grad_(v.requires_grad and p is student)
                           for k, v in p.items()} for p in (student, teacher))
            x = inputs.to(dtype)
            if way == 'published':
                by = f_t(x, other, False) if f_t else ()
                loss, parts = published.loss(opt, targets, *f_s(x, own, True), *by)
            else:
                params = utils.with_prefix(own, 'student.') | utils.with_prefix(other, 'teacher.')
                loss, _, parts = teaching.student_objective(opt, f_s, f_t)(
                    params, x, targets, True, torch.tensor(opt.beta, dtype=dtype))
            loss.backward()
            found.append([loss.detach(), own, {k: v.grad for k, v in own.items()
                                               if v.requires_grad}])
            # the published way alone computes losses that weigh nothing
            assert len(parts) == (len(opt.at_groups) if f_t and (opt.beta or
                                                                 way == 'published') else 0)
        torch.testing.assert_close(*found, rtol=bound, atol=bound)
        assert found[0][2]['conv0'].abs().max() > 0


def test_both_augmentations_are_equal():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
    top, left = rng.integers(0, 9, (2, 9))
    flip = rng.integers(0, 2, 9).astype(bool)
    one_by_one = [published.augment(*draws) for draws in zip(images, top, left, flip, strict=True)]
    padded = torch.from_numpy(arrays.pad_reflect(images, published.PAD))
    whole = arrays.crop_flip(padded, torch.arange(9), *map(torch.from_numpy, (top, left, flip)),
                             32, 32)
    whole = arrays.normalise(whole, torch.tensor(arrays.PIXELS['cifar']))
    np.testing.assert_allclose(whole.numpy(), np.stack(one_by_one), rtol=1e-6, atol=1e-6)


def read_table(capfd):
    """The first line, and the rows, {column: text}."""
    head, titles, *rows = capfd.readouterr().out.splitlines()
    assert titles == ''.join(f'{k:{width}}' for k, width in clock.COLUMNS.items())
    found = []
    for row in rows:
        found.append({})
        for k, width in clock.COLUMNS.items():
            text, row = row[:int(width[1:])], row[int(width[1:]):]
            found[-1][k] = text.strip()
    return head, found


def test_prints_a_row_for_each_way(capfd, monkeypatch):
    """Each in a process of its own."""
    ways = bench.ways_of_cifar
    monkeypatch.setattr(bench, 'ways_of_cifar', lambda *a: {
        k: way for k, way in ways(*a).items() if k in ('published', 'ours')})
    bench.main([*SMALL, '10-1:10-1:kd'])
    head, rows = read_table(capfd)
    assert 'batch 4 of 32x32, 1 rounds of 1 steps' in head
    assert [(row['case'], row['way']) for row in rows] == [
        ('10-1:10-1:kd', 'published'), ('10-1:10-1:kd', 'ours')]
    for row in rows:
        assert float(row['ratio']) > 0 and float(row['of peak'].split()[0]) > 0
        assert float(row['MB']) > 100 and (torch.cuda.is_available() or row['idle'] == '-')


def test_prints_a_row_for_each_way_of_a_gpu(capfd, like_gpu):
    cases = ['10-1', '10-1:10-1']
    bench.main([*SMALL, *cases])
    _, rows = read_table(capfd)
    ways = ['published', 'published, no data', 'ours', 'ours, no data', 'ours, not captured',
            'ours, compiled', 'ours, 4 runs at once', 'ours, 8 runs at once']
    assert [(row['case'], row['way']) for row in rows] == [(c, way) for c in cases for way in ways]
    assert len(like_gpu) == len(cases)
    for row in rows:        # of a run's 4 images
        assert float(row['ms']) * float(row['images/s']) == pytest.approx(4000, rel=.1)


@pytest.mark.parametrize('ablated', bench.ABLATED)
def test_a_step_less_each_part(ablated, like_gpu, monkeypatch):
    monkeypatch.setattr(script, 'keep_memory', script.keep_memory)
    flags = bench.parse([*SMALL, '10-1', '--ablate'])
    for cuda in (False, True):
        bench.ways_of_cifar(flags, '10-1', '', cuda)[ablated].make()()


def test_runs_at_once_end_as_each_does_alone(like_gpu, tmp_path):
    """The same bits, over more than an epoch; the steps that warm up do not count."""
    flags = bench.parse([*SMALL, '10-1:10-1'])
    bench.cases_of_cifar(flags, tmp_path)       # writes the teacher
    made, alone = (list(bench.cifar_trainings(flags, '10-1:10-1', tmp_path, 3)) for _ in range(2))
    functions = [bench.steps(made, True), *(bench.steps([t], False) for t in alone)]
    for _ in range(5):
        for f in functions:
            f()
    ends = [[step.changed_by(t.state) for t in its] for its in (made, alone)]
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
def test_bad_flags(fails, monkeypatch, in_process, loop, flags, message):
    monkeypatch.setattr(bench, 'METHODS', ('l2',))
    status, said = fails(bench.main, loop, *flags)
    assert status == 2 and message in said and len(said.splitlines()) == 1


def test_what_is_wrong_in_a_process_is_said_here():
    with pytest.raises(InputError, match='no net nothing'), clock.children(
            {'a': functools.partial(store.locate, 'nothing')}):
        pass


def test_imagenet_prints_a_row_for_each_way(capfd, shapes_folder, monkeypatch, in_process):
    monkeypatch.setattr(bench, 'CROP', 64)
    bench.main(['imagenet', '--rounds', '1', '--steps', '1', '--images', '2', '--batch_size', '2',
                '--dtype', 'float', '--imagenetpath', str(shapes_folder)])
    head, rows = read_table(capfd)
    assert 'ours in float' in head
    assert [row['case'] for row in rows] == 4 * ['input'] + [
        task for task in ('training', 'AT', 'inference') for _ in range(2)]
    for row in rows:
        assert float(row['ratio']) > 0 and (row['of peak'] == '-') == (row['case'] == 'input')


def test_imagenet_draws_images_if_it_is_given_none(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, 'DRAWN', 64)
    flags = bench.parse(['imagenet', '--images', '10', '--batch_size', '2', '--dtype', 'float'])
    ways = next(bench.cases_of_imagenet(flags, str(tmp_path)))['input']
    assert all(len(way.make()()) == 2 for way in ways.values()) and len(ways) == 4


@pytest.mark.parametrize('method', bench.METHODS)
@pytest.mark.parametrize('graph', [False, True])
def test_a_step_of_each_method(method, graph, like_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, 'steps', lambda trainings, real=bench.steps: real(trainings, graph))
    monkeypatch.setattr(bench, 'METHODS', [method])
    flags = bench.parse(['finetune', '--nets', 'wrn-10-1', '--size', '32', '--batch_size', '2',
                         '--dtype', 'float'])
    next(bench.cases_of_finetune(flags, str(tmp_path)))['wrn-10-1'][method].make()()


def test_finetune_prints_a_row_for_each_method_and_each_size(capfd, monkeypatch, in_process):
    monkeypatch.setattr(bench, 'METHODS', ('l2', 'delta'))
    bench.main(['finetune', '--nets', 'wrn-10-2', '--size', '32', '--rounds', '1', '--steps', '1',
                '--batch_size', '2', '--dtype', 'float'])
    _, rows = read_table(capfd)
    methods, sizes = rows[:2], rows[2:]
    assert [row['way'] for row in methods] == ['l2', 'delta']
    assert {row['case'] for row in sizes} == {'wrn-10-2, inference'}
    assert methods[0]['ratio'] == sizes[0]['ratio'] == '1.00'
    assert all(float(row[k]) > 0 for row in rows for k in ('images/s', 'ratio', 'MB'))
    parts, multiples = zip(*(row['way'].split(', multiples of ') for row in sizes[1:]), strict=True)
    assert multiples == ('1', '8', '1', '8')
    assert [float(part) for part in parts] == pytest.approx([.5, .5, .25, .25], abs=.02)
