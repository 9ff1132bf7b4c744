"""Several runs in one command: each ends as it does alone; graphs and streams are imitated."""
import contextlib
import os
import pathlib
import time

import pytest
import torch
from helpers import same_run

import cifar
import finetune
import imagenet
from data import arrays
from engine import graphs, loop, runs, script
from utils import InputError

RUNS = {'plain': [], 'wide': ['--width', '2', '--seed', '1'],
        'at': ['--teacher_id', 't', '--beta', '100'],
        'kd': ['--teacher_id', 't', '--alpha', '.9', '--lr', '.02', '--transfer_from', '2'],
        'nin': ['--model', 'nin', '--depth', '16', '--width', '.1', '--dtype', 'float']}
QUICK = ['--dataset', 'shapes', '--depth', '10', '--batch_size', '60', '--epochs', '2', '--lr',
         '.05']


@pytest.fixture(params=['in turn', 'as graphs'])
def way(request, monkeypatch):
    """How runs are trained: as on a CPU, or as on a GPU, where what is captured is played back."""
    if request.param == 'as graphs':
        monkeypatch.setattr(loop, 'why_no_graph', lambda opt, device: '')
        monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
        monkeypatch.setattr(graphs, 'capture', imitation)
    return request.param


captured = []


def imitation(works, pool):
    """A function that does the same work on the same tensors."""
    captured.append(len(works))
    return lambda: [work() for work in works]


def call(*commands, script=cifar):
    script.main([word for i, words in enumerate(commands)
                 for word in (['+'] * (i > 0) + [str(w) for w in words])])


def run(name, folder, *more):
    return [*QUICK, *RUNS[name], '--save', f'logs/{folder}/{name}', *more]


def test_each_run_ends_with_the_bits_it_has_alone(way):
    """The last batch of an epoch is smaller than the others; the second epoch has other steps."""
    call([*QUICK, '--save', 'logs/t', '--seed', 7])
    captured.clear()
    call(*(run(name, 'together') for name in RUNS))
    assert captured == ([5] * 8 if way == 'as graphs' else [])
    for name in RUNS:
        call(run(name, 'alone'))
        assert same_run(f'logs/together/{name}', f'logs/alone/{name}')
        own, alone = (runs.read_log(f'logs/{k}/{name}/log.txt')[0] for k in ('together', 'alone'))
        assert own['command'] == alone['command'].replace('alone', 'together')
        assert '+' not in own['command']


def test_fine_tuning_of_images_in_memory(way):
    """With a run of cifar.py as source, other methods, seeds, and channels pruned by gates."""
    call([*QUICK, '--save', 'logs/t', '--width', 2])
    captured.clear()
    flags = ['--dataset', 'shapes', '--domain', 'shifted', '--shift', .5, '--per_class', 7,
             '--batch_size', 16, '--iterations', 9, '--steps_per_epoch', 3, '--source', 'logs/t']
    methods = {'l2': ['--seed', 1], 'ast': ['--method', 'ast'],
               'afds': ['--method', 'afd', '--prune', 'afs', '--macs_target', .5, '--alpha', 1e-3]}
    call(*([*flags, *v, '--save', f'logs/both/{k}'] for k, v in methods.items()), script=finetune)
    assert captured == ([3, 3] if way == 'as graphs' else [])
    for k, v in methods.items():
        call([*flags, *v, '--save', f'logs/alone/{k}'], script=finetune)
        assert same_run(f'logs/both/{k}', f'logs/alone/{k}')


def test_captured_steps_are_those_that_are_not(way):
    """Of one run, against the loop without graphs."""
    call(run('wide', 'captured'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, 'why_no_graph', lambda opt, device: '--no_graph')
        call(run('wide', 'plain'))
    assert same_run('logs/captured/wide', 'logs/plain/wide')


def test_images_lie_on_the_device_once(monkeypatch):
    seen, real = [], arrays.held_images
    monkeypatch.setattr(arrays, 'held_images', lambda images, *args, **how: (
        seen.append(images.data_ptr()), real(images, *args, **how))[1])
    cifar.images_on.cache_clear()
    call(run('plain', 'a'), run('wide', 'b'))
    assert len(seen) == 4 and len(set(seen)) == 2


def test_a_run_that_fails_stops_no_other(way, fails, capsys):
    bad = run('wide', 'b', '--lr', '1e30', '--dtype', 'float')
    status, said = fails(cifar.main, *run('plain', 'a'), '+', *bad)
    assert status == 1 and 'failed: logs/b/wide' in said.splitlines()[-1]
    assert 'logs/b/wide: the loss is not finite in step 2 of epoch 1' in said
    call(run('plain', 'alone'))
    assert same_run('logs/a/plain', 'logs/alone/plain')
    assert not pathlib.Path('logs/b/wide/model.pt7').exists()


def test_runs_of_different_epochs_continue_each_from_its_own(way):
    call(run('plain', 'a', '--epochs', 1, '--epoch_step', '[2]'))
    call(*(run(name, 'a', '--epochs', 3, '--epoch_step', '[2]') for name in ('plain', 'wide')))
    for name in ('plain', 'wide'):
        call(run(name, 'alone', '--epochs', 3, '--epoch_step', '[2]'))
        assert same_run(f'logs/a/{name}', f'logs/alone/{name}')
    epochs = [z['epoch'] for z in runs.read_log('logs/a/plain/log.txt')[1:]]
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize('second, said', [
    (['--batch_size', '30'], 'the same --batch_size, not 60 and 30'),
    (['--epochs', '3'], 'the same --epochs'),
    (['--dataset', 'CIFAR10'], 'the same --dataset'),
    (['--save', 'logs/a/plain'], 'two runs have the folder'),
    (['--ngpu', '2'], 'the same --ngpu')])
def test_what_cannot_go_together_is_one_line(second, said, fails):
    status, error = fails(cifar.main, *run('plain', 'a'), '+', *run('wide', 'b', *second))
    assert status == 2 and said in error and len(error.splitlines()) == 1
    assert not pathlib.Path('logs').exists()


@pytest.mark.parametrize('first', [[], ['--evaluate', 'x']])
def test_evaluation_is_alone(first, fails, shapes_folder):
    flags = ['--imagenetpath', str(shapes_folder)]
    status, said = fails(imagenet.main, *flags, *first, '+', *flags, '--evaluate', 'x')
    assert status == 2 and 'alone' in said and os.listdir() == []


def test_a_plus_without_a_run(fails):
    status, said = fails(cifar.main, *run('plain', 'a'), '+')
    assert status == 2 and 'both sides' in said and not pathlib.Path('logs').exists()


def test_runs_with_dropout_draw_from_their_own_generators():
    flags = ['--dataset', 'shapes', '--arch', 'wrn-10-1', '--iterations', 4, '--steps_per_epoch', 2,
             '--batch_size', 16, '--nthread', 0, '--size', 32, '--bottleneck', 8, '--dropout', .5]
    commands = {k: [*flags, '--seed', k] for k in (0, 1)}
    call(*([*v, '--save', f'logs/both/{k}'] for k, v in commands.items()), script=finetune)
    for k, v in commands.items():
        torch.manual_seed(99)       # what others draw changes nothing
        call([*v, '--save', f'logs/alone/{k}'], script=finetune)
        assert same_run(f'logs/both/{k}', f'logs/alone/{k}')
    assert not torch.equal(*(torch.load(f'logs/both/{k}/model.pt7', weights_only=True)['params'][
        'fc.weight'] for k in (0, 1)))


def test_nets_with_dropout_are_alone_on_a_gpu():
    t = type('T', (), dict(is_random=True, folder='logs/a'))()
    with pytest.raises(InputError, match='logs/a: a net with dropout'):
        loop.fit([t, t], torch.device('cuda'))


# ---- draws --------------------------------------------------------------------------------------

def test_what_ran_before_and_torchs_own_generator_change_nothing():
    call(run('plain', 'a'))
    call(run('nin', 'between'))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    call(run('plain', 'b'))
    assert same_run('logs/a/plain', 'logs/b/plain') and torch.equal(torch.get_rng_state(), before)


# ---- graphs -------------------------------------------------------------------------------------

def test_a_capture_changes_nothing(monkeypatch):
    """Warm-up steps are undone, of parameters, momenta, sums and the place in the epoch."""
    monkeypatch.setattr(graphs, 'capture', imitation)
    x = torch.arange(6.)
    task = graphs.Task(lambda size, y: x.add_(y.sum() * size), [x])
    take = graphs.captured(torch.device('cpu'))
    take([(task, (2, torch.ones(3)))])
    assert torch.equal(x, torch.arange(6.) + 6)
    take([(task, (2, torch.full((3,), 2.)))])       # replayed, with what is in the batch now
    assert torch.equal(x, torch.arange(6.) + 18)
    captured.clear()
    take([(task, (1, torch.ones(2)))])              # another shape is another graph
    assert captured == [1] and torch.equal(x, torch.arange(6.) + 20)


@contextlib.contextmanager
def stopping(seconds):
    os.environ['STOP_AT'] = str(time.time() + seconds)
    try:
        yield
    finally:
        del os.environ['STOP_AT']


def test_stopped_at_a_time_and_continued(way, capsys):
    commands = [run(name, 'a', '--epochs', 3) for name in ('plain', 'wide')]
    with stopping(-1):
        call(*commands)
    assert 'the same command continues' in capsys.readouterr().out
    for name in ('plain', 'wide'):
        assert torch.load(f'logs/a/{name}/model.pt7', weights_only=True)['epoch'] == 1
    call(*commands)
    call(run('plain', 'alone', '--epochs', 3))
    assert same_run('logs/a/plain', 'logs/alone/plain')


# ---- checkpoints --------------------------------------------------------------------------------

def test_checkpoints_are_written_from_time_to_time_and_at_the_end(monkeypatch):
    saved, real = [], runs.save_checkpoint
    monkeypatch.setattr(runs, 'save_checkpoint', lambda folder, opt, line, *rest: (
        saved.append(line['epoch']), real(folder, opt, line, *rest)))
    call(run('plain', 'a', '--epochs', 3))
    assert saved == [1, 3]
    call(run('plain', 'b', '--epochs', 3, '--save_every', 0))
    assert saved == [1, 3, 1, 2, 3]


def interrupt(*args):
    raise KeyboardInterrupt


def test_cut_off_before_the_first_checkpoint_begins_anew(monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, 'save_checkpoint', interrupt)
        call(run('plain', 'a'))
    assert len(runs.read_log('logs/a/plain/log.txt')) == 1
    call(run('plain', 'a'))
    call(run('plain', 'alone'))
    assert same_run('logs/a/plain', 'logs/alone/plain')


def test_cut_off_before_the_first_checkpoint_begins_anew_from_its_file(monkeypatch):
    call(run('plain', 'first', '--epochs', 1))
    resumed = run('plain', 'a', '--epochs', 3, '--resume', 'logs/first/plain/model.pt7')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, 'save_checkpoint', interrupt)
        call(resumed)
    assert not pathlib.Path('logs/a/plain/model.pt7').exists()
    call(resumed)
    call(run('plain', 'alone', '--epochs', 3))
    assert [z['epoch'] for z in runs.read_log('logs/a/plain/log.txt')[1:]] == [2, 3]
    a, b = (torch.load(f'logs/{k}/plain/model.pt7', weights_only=True)['params']
            for k in ('a', 'alone'))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


# ---- the revision -------------------------------------------------------------------------------

def test_a_copy_without_git_takes_its_revision_from_a_file(tmp_path):
    assert runs.revision_of(tmp_path) == ('', False)
    (tmp_path / 'REVISION').write_text('a' * 40 + '\n')
    assert runs.revision_of(tmp_path) == ('a' * 40, False)
    (tmp_path / 'REVISION').write_text('a' * 40 + ' changed\n')
    assert runs.revision_of(tmp_path) == ('a' * 40, True)
    assert script.loop is loop
