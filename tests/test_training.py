"""The loop: log, checkpoints, continuing, and what can go wrong while it runs."""
import contextlib
import errno
import json
import os
import re
import signal
import types

import kill
import pytest
import torch
from helpers import process, same_run

import cifar
from data import arrays, cifar_sets
from engine import loop, progress, runs, script, step
from utils import RunError
from weights import store


def test_log_is_valid_json_with_all_fields(cifar_run):
    cifar_run('logs/t')
    cifar_run('logs/a', '--teacher_id', 't', '--beta', 10, '--epochs', 2, '--epoch_step', '[0.5]')
    text = open('logs/a/log.txt').read().splitlines()

    def no_constant(name):
        raise AssertionError(name)

    first, *epochs = [json.loads(s.removeprefix('json_stats: '), parse_constant=no_constant)
                      for s in text]
    assert all(s.startswith('json_stats: ') for s in text) and len(epochs) == 2
    assert {'command', 'git', 'git_dirty', 'torch', 'device', 'dtype', 'seed', 'depth',
            'width'} <= set(first)
    assert first['dtype'] in ('float', 'bfloat16') and first['epoch_step'] == [2]
    for k, z in enumerate(epochs):
        assert {'train_loss', 'train_acc', 'test_loss', 'test_acc', 'epoch', 'num_classes',
                'n_parameters', 'train_time', 'test_time', 'at_losses'} <= set(z)
        assert z['epoch'] == k + 1 and z['num_classes'] == 10 and len(z['at_losses']) == 3
        assert 0 <= z['test_acc'] <= 100 and z['train_time'] > 0 and z['depth'] == 10
    f, params = cifar.resnet(10, 1, 10)
    assert z['n_parameters'] == sum(v.numel() for v in params.values() if v.requires_grad)


def test_numbers_of_the_log_are_those_of_the_checkpoint(cifar_run):
    """Test loss and accuracy, computed again from model.pt7 in one batch."""
    z = cifar_run('logs/a', '--dtype', 'float')[-1]
    params = store.read_params('logs/a/model.pt7')
    f, _ = cifar.resnet(10, 1, 10)
    _, (images, labels), _ = cifar_sets.load_arrays('shapes')
    stats = torch.tensor(arrays.PIXELS['cifar'])
    logits, _ = f(arrays.normalise(torch.from_numpy(images), stats), params, False)
    labels = torch.from_numpy(labels)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert z['test_loss'] == pytest.approx(loss.item(), rel=1e-4)
    assert z['test_acc'] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean())


def test_checkpoint_loads_safely_and_has_all_it_needs(cifar_run):
    cifar_run('logs/a', '--width', 2)
    state = torch.load('logs/a/model.pt7', weights_only=True)
    assert set(state) == {'params', 'momenta', 'epoch', 'line', 'random', 'options'}
    assert set(state['momenta']) == {'student.' + k for k in state['params'] if 'running' not in k}
    assert state['epoch'] == 1 and state['options']['width'] == 2
    assert open('logs/a/curves.png', 'rb').read(4) == b'\x89PNG'


def test_learning_rate_and_momentum_as_published(cifar_run, monkeypatch):
    """Drops at the START of the named epochs, each with zero momenta."""
    seen, real = [], loop.begin_epoch

    def begin_epoch(t):
        real(t)
        zero = not any(v.any() for v in t.state.momenta.values())
        seen.append((t.epoch + 1, pytest.approx(t.state.rate.item()), zero))

    monkeypatch.setattr(loop, 'begin_epoch', begin_epoch)
    cifar_run('logs/a', '--epochs', 5, '--epoch_step', '[2,0.8]', '--lr', 1e-3)
    assert seen == [(1, 1e-3, True), (2, 2e-4, True), (3, 2e-4, False), (4, 4e-5, True),
                    (5, 4e-5, False)]


# code that kills its own process after the second epoch
KILL = '''
import os, signal
real = runs.save_checkpoint
def save(folder, opt, line, *rest):
    real(folder, opt, line, *rest)
    if line['epoch'] == 2:
        os.kill(os.getpid(), signal.{})
runs.save_checkpoint = save
'''


@pytest.mark.parametrize('method, first', [('at', 1), ('f_actt', 3)])
def test_killed_and_continued_equals_uninterrupted(cifar_run, method, first):
    """Also where the teacher begins to teach in between."""
    flags = ['--teacher_id', 't', '--beta', 100, '--epochs', 4, '--epoch_step', '[2,4]',
             '--method', method, '--transfer_from', first]
    cifar_run('logs/t', '--width', 2)
    cifar_run('logs/whole', *flags)
    killed = process('--save', 'logs/killed', '--save_every', 0, *flags,
                     before=KILL.format('SIGKILL'))
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert [z['epoch'] for z in runs.read_log('logs/killed/log.txt')[1:]] == [1]    # not yet 2
    lines = cifar_run('logs/killed', *flags)
    assert [z['epoch'] for z in lines[1:]] == [1, 2, 3, 4]
    assert ['continued' in z for z in lines[1:]] == [False, False, True, False]
    assert same_run('logs/whole', 'logs/killed')


def test_killed_at_any_write_or_on_a_full_disk_continues():
    """`python tests/kill.py` tries more."""
    assert kill.main(6, 0, ['first epoch', 'two']) == []


def test_longer_epochs_continue(cifar_run):
    cifar_run('logs/whole', '--epochs', 2)
    cifar_run('logs/a', '--epochs', 1)
    cifar_run('logs/a', '--epochs', 2)
    assert same_run('logs/whole', 'logs/a')


def test_resume_from_a_file(cifar_run):
    cifar_run('logs/whole', '--epochs', 2)
    cifar_run('logs/a', '--epochs', 1)
    lines = cifar_run('logs/b', '--epochs', 2, '--resume', 'logs/a')
    assert [z.get('epoch') for z in lines] == [None, 2]
    x, y = (torch.load(f'logs/{p}/model.pt7', weights_only=True)['params'] for p in ('whole', 'b'))
    assert all(torch.equal(x[k], y[k]) for k in x)


def test_resume_of_a_finished_run_elsewhere(cifar_run, tmp_path):
    cifar_run('logs/a')
    with pytest.raises(SystemExit) as e:
        script.run(lambda: cifar_run('logs/b', '--resume', 'logs/a/model.pt7'))
    assert e.value.code == 2 and not (tmp_path / 'logs/b').exists()


def test_folder_that_cannot_be_written(fails, tmp_path):
    (tmp_path / 'file').write_text('')
    for save, expected, words in (('file', 2, 'not a folder'), ('file/run', 2, 'not a folder'),
                                  ('/proc/x', 1, 'cannot write /proc/x')):
        status, said = fails(cifar.main, '--dataset', 'shapes', '--save', save)
        assert status == expected and words in said and len(said.splitlines()) == 1


def test_full_screen_is_one_line(fails):
    def main(argv):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        status, said = fails(main)
    assert status == 1 and said.startswith('error: No space left') and len(said.splitlines()) == 1


def test_resume_from_a_published_file(cifar_run, capsys):
    _, params = cifar.resnet(10, 1, 10)
    torch.save(dict(params=params, optimizer={}, epoch=1), 'old.pt7')
    lines = cifar_run('logs/a', '--epochs', 2, '--resume', 'old.pt7')
    assert lines[-1]['epoch'] == 2 and 'momentum' in capsys.readouterr().out


def test_finished_run_needs_neither_teacher_nor_data(cifar_run, tmp_path, monkeypatch):
    cifar_run('logs/t')
    lines = cifar_run('logs/a', '--teacher_id', 't', '--beta', 1)
    (tmp_path / 'logs/t/model.pt7').unlink()
    monkeypatch.setattr(cifar_sets, 'load_arrays', None)
    (tmp_path / 'logs/a/curves.png').unlink()
    assert cifar_run('logs/a', '--teacher_id', 't', '--beta', 1) == lines
    assert (tmp_path / 'logs/a/curves.png').exists()


def test_foreign_log_is_not_overwritten(cifar_run, tmp_path):
    (tmp_path / 'logs/a').mkdir(parents=True)
    (tmp_path / 'logs/a/log.txt').write_text('a note')
    with pytest.raises(SystemExit) as e:
        script.run(lambda: cifar_run('logs/a'))
    assert e.value.code == 2 and (tmp_path / 'logs/a/log.txt').read_text() == 'a note'


def test_other_options_after_a_failure_in_the_first_epoch(cifar_run):
    """No epoch was finished: there is nothing to lose, and a smaller --lr is what was advised."""
    with pytest.raises(SystemExit) as e:
        script.run(lambda: cifar_run('logs/a', '--lr', 1e38, '--dtype', 'float'))
    assert e.value.code == 1
    assert cifar_run('logs/a')[0]['lr'] == .05


def test_large_loss_is_still_finite():
    sums = torch.zeros(8, dtype=torch.double)
    step.add_up(sums, torch.tensor(1e38), torch.eye(128), torch.arange(128), [])
    assert sums.isfinite().all() and sums[step.FINITE] == 1


def test_line_after_the_checkpoint_is_dropped_on_continuing(cifar_run):
    """Of the epochs between two checkpoints."""
    cifar_run('logs/a', '--epochs', 1)
    checkpoint = open('logs/a/model.pt7', 'rb').read()
    cifar_run('logs/a', '--epochs', 2)
    with open('logs/a/model.pt7', 'wb') as f:
        f.write(checkpoint)
    lines = cifar_run('logs/a', '--epochs', 2)
    assert [z['epoch'] for z in lines[1:]] == [1, 2] and 'continued' in lines[2]


def test_finished_run_says_so(cifar_run, capsys):
    before = cifar_run('logs/a')
    capsys.readouterr()
    assert cifar_run('logs/a') == before
    assert 'logs/a is finished' in capsys.readouterr().out


@pytest.mark.parametrize('steps, stays', [('[3]', True), ('[2,3]', False)])
def test_a_learning_rate_that_does_not_drop_is_told(cifar_run, capsys, steps, stays):
    cifar_run('logs/a', '--epochs', 2, '--epoch_step', steps)
    assert ('does not drop before --epoch_step [3]' in capsys.readouterr().out) == stays


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_fewer_epochs_are_refused(cifar_run):
    cifar_run('logs/a', '--epochs', 2)
    with pytest.raises(SystemExit) as e:
        script.run(lambda: cifar_run('logs/a', '--epochs', 1))
    assert e.value.code == 2


def test_other_options_are_named_and_nothing_is_overwritten(fails, cifar_run, tmp_path):
    cifar_run('logs/a')
    before = contents(tmp_path)
    status, said = fails(cifar.main, '--dataset', 'shapes', '--depth', 10, '--batch_size', 64,
                         '--epochs', 1, '--lr', .1, '--seed', 3, '--save', 'logs/a')
    assert status == 2 and '--lr was 0.05, is 0.1' in said and '--seed was 0, is 3' in said
    assert contents(tmp_path) == before


def test_log_without_checkpoint(fails, cifar_run, tmp_path):
    cifar_run('logs/a')
    (tmp_path / 'logs/a/model.pt7').unlink()
    cifar_run('logs/a')     # finished: the log says so
    before = contents(tmp_path)
    for flags in (['--epochs', 2], ['--export', 'net.pth']):
        with pytest.raises(SystemExit) as e:
            script.run(lambda flags=flags: cifar_run('logs/a', *flags))
        assert e.value.code == 2 and contents(tmp_path) == before


def test_damaged_log(cifar_run, tmp_path):
    cifar_run('logs/a')
    log = tmp_path / 'logs/a/log.txt'
    text = log.read_text()
    for damaged in (text[:-9].encode(), b'json_stats: 3\n', b'\xff\xfe\x00'):
        log.write_bytes(damaged)
        with pytest.raises(SystemExit) as e:
            script.run(lambda: cifar_run('logs/a', '--epochs', 2))
        assert e.value.code == 2 and log.read_bytes() == damaged


def test_resume_of_another_architecture_names_the_first_keys(fails, cifar_run, tmp_path):
    cifar_run('logs/a')
    before = contents(tmp_path)
    status, said = fails(cifar.main, '--dataset', 'shapes', '--depth', 10, '--width', 2,
                         '--save', 'logs/b', '--resume', 'logs/a/model.pt7')
    assert status == 2 and 'group0.block0.conv0: (16, 16, 3, 3), expected (32, 16, 3, 3)' in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize('lr', ['1e38', '1e4'])
def test_loss_that_is_not_finite(lr, cifar_run, fails, capsys, tmp_path):
    """Exit 1, the step named, and the checkpoint before stays."""
    cifar_run('logs/a', '--epochs', 1)
    good = (tmp_path / 'logs/a/model.pt7').read_bytes()
    flags = ['--dataset', 'shapes', '--depth', '10', '--dtype', 'float', '--epochs', '2',
             '--resume', 'logs/a/model.pt7', '--save', 'logs/b', '--weight_decay', '1e30']
    status, said = fails(cifar.main, *flags, '--lr', lr)
    assert status == 1 and re.search(r'not finite in step \d+ of epoch 2', said)
    assert '--lr' in said and not (tmp_path / 'logs/b/model.pt7').exists()
    assert (tmp_path / 'logs/a/model.pt7').read_bytes() == good


def test_first_bad_step_is_the_one_named():
    sums = torch.zeros(8, dtype=torch.double)
    for loss in (1., 2., float('nan'), 3.):
        step.add_up(sums, torch.tensor(loss), torch.eye(2), torch.arange(2), [])
    with pytest.raises(RunError, match='step 3 of epoch 7'):
        loop.averages(sums, 'epoch 7')


def test_fixed_filters_give_the_same_bits_in_bfloat16():
    """A teacher's filters as autocast makes them, once instead of in each step."""
    f, params = cifar.resnet(10, 1, 10)
    x, device = torch.randn(2, 3, 32, 32), torch.device('cpu')
    logits = []
    for fixed in (False, True):
        placed = step.on_device(params, 'bfloat16', device, fixed)
        assert placed['conv0'].dtype == (torch.bfloat16 if fixed else torch.float32)
        assert placed['bn.weight'].dtype == torch.float32
        assert placed['conv0'].requires_grad != fixed
        with torch.no_grad(), step.precision('bfloat16', device):
            logits.append(f(x, placed, False)[0])
    assert torch.equal(*logits)


def test_full_disk_leaves_the_previous_checkpoint(cifar_run, tmp_path):
    cifar_run('logs/a', '--epochs', 1)
    good = (tmp_path / 'logs/a/model.pt7').read_bytes()
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))'
    run = process('--save', 'logs/a', '--epochs', 2, before=limit)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 1 and 'cannot write' in said and 'Traceback' not in said
    assert (tmp_path / 'logs/a/model.pt7').read_bytes() == good
    assert not list(tmp_path.rglob('*.tmp'))
    assert cifar_run('logs/a', '--epochs', 2)[-1]['epoch'] == 2


def test_interrupt():
    run = process('--save', 'logs/a', '--epochs', 1000, '--save_every', 0,
                  before=KILL.format('SIGINT'))
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130 and 'the same command continues' in said
    assert 'Traceback' not in said
    assert torch.load('logs/a/model.pt7', weights_only=True)['epoch'] == 2


def test_runs_of_one_seed_are_the_same(cifar_run):
    try:
        first, _ = (cifar_run(f'logs/{k}', '--deterministic', '--seed', 5) for k in 'ab')
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_run('logs/a', 'logs/b')
    other = cifar_run('logs/c', '--seed', 6)
    assert other[-1]['train_loss'] != first[-1]['train_loss']


@pytest.mark.slow
def test_compiled_run_follows_the_plain_one(cifar_run):
    cifar_run('logs/t')
    flags = ['--teacher_id', 't', '--beta', 100, '--alpha', .9, '--dtype', 'float', '--epochs', 2]
    plain = cifar_run('logs/a', *flags)
    compiled = cifar_run('logs/b', *flags, '--compile')
    assert compiled[-1]['train_loss'] == pytest.approx(plain[-1]['train_loss'], rel=1e-2)


def test_bars_are_quiet_without_a_terminal(tmp_path):
    run = process('--save', 'logs/a')
    out, err = run.communicate(timeout=120)
    assert 'images' not in err and '\r' not in err and 'epoch 1/1  train loss' in out


def test_progress_bar_shows_loss_error_and_speed(monkeypatch, capsys):
    """On a terminal; the numbers are those of some steps before."""
    class Bar(progress.tqdm):
        def __init__(self, **how):
            super().__init__(**{**how, 'disable': False, 'ncols': 120, 'mininterval': 0})

    monkeypatch.setattr(progress, 'tqdm', Bar)
    sums = torch.zeros(8, dtype=torch.double)
    t = types.SimpleNamespace(opt=types.SimpleNamespace(epochs=2), epoch=0, steps=0,
                              train=types.SimpleNamespace(n=400),
                              state=types.SimpleNamespace(sums=sums))
    start, advance, bar = progress.make_bar([t, t], torch.device('cpu'))
    start([t, t])
    for t.steps in range(1, 41):
        sums[:3] = t.steps * torch.tensor([10, 20, 7])
        advance([(t, (10,)), (t, (10,))])
    bar.close()
    shown = capsys.readouterr().err
    assert 'loss=2.000' in shown and 'error=30.0%' in shown and 'images/s' in shown
    assert '2 runs, epoch 1/2:  50%' in shown and '800/1600' in shown
