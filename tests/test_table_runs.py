"""Running the tables' commands: processes, failures, locks, time limits, interrupts."""
import contextlib
import multiprocessing
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import pytest
import torch
from helpers import ROOT, ROW_OPTIONS, SMALL, finish, saves, small_table

import tables
from engine import runs, script
from papers import catalogue
from papers.rows import choice, row
from utils import RunError

# cifar.py on few images, as `run` starts it; it writes down what it trains
SCRIPT = f'''
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import cifar
from data import shapes
from engine import loop, runs, script
shapes.SHAPES_COUNTS = {SMALL}
fit, save = loop.fit, runs.save_checkpoint
def fit_and_tell(trainings, device):
    for t in trainings:
        print(t.opt.save, file=open('trained', 'a'))
    fit(trainings, device)
loop.fit = fit_and_tell
def save_and_die(folder, opt, line, *rest):
    save(folder, opt, line, *rest)
    if str(folder).endswith('t/killed/seed0') and line['epoch'] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
runs.save_checkpoint = save_and_die
script.run(cifar.main)
'''


@pytest.fixture
def small(monkeypatch, tmp_path):
    """What `run` starts is SCRIPT."""
    (tmp_path / 'cifar.py').write_text(SCRIPT)
    monkeypatch.setattr(tables, 'HOME', tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


def call_run(*flags):
    with pytest.raises(SystemExit) as e:
        script.run(lambda: tables.main(['run', *flags]))
    return e.value.code


@pytest.fixture
def fake(monkeypatch):
    """Instead of starting a process, call a function of the words -> the list of the folders."""
    started = []

    def replace(process):
        def start(command, env):
            started.append(command[3])
            status = process(['cifar.py', *command[2:]])
            return mock.Mock(returncode=status, poll=lambda: status)
        monkeypatch.setattr(tables, 'subprocess', types.SimpleNamespace(Popen=start))
        return started

    monkeypatch.setattr(tables, 'print_table', lambda *a: None)
    return replace


@pytest.fixture
def sleep(monkeypatch):
    """Instead of sleeping, `run` calls a function of the seconds."""
    def replace(function):
        monkeypatch.setattr(tables, 'time', types.SimpleNamespace(
            sleep=function, time=time.time, monotonic=time.monotonic))
    return replace


def plus(words):
    """The command lines that stand side by side in one."""
    return [[words[0], *part.split()] for part in ' '.join(words[1:]).split(' + ')]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


# ---- one at a time ------------------------------------------------------------------------------

def test_run_goes_on_after_failures_and_continues_what_was_cut_off(monkeypatch, capfd, small):
    rows = {'teacher': row('a bad row', options='--depth 11', seeds=1),
            'killed': row('killed after an epoch', seeds=1),
            'taught': choice('taught by none', '--teacher_id @teacher --beta 1'),
            'taught_by_killed': choice('taught', '--teacher_id @killed --beta 1')}
    common = '--dataset shapes --depth 10 --batch_size 64 --epochs 2 --save_every 0'
    rows = {k: r | dict(options=f'{common} {r["options"]}') for k, r in rows.items()}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': small_table(rows, '')})
    assert call_run('t', '--root', 'logs') == 1
    out, err = capfd.readouterr()
    last = err.splitlines()[-1]
    assert err.count('6n+4') == 1 and last.startswith('error: failed: cifar.py --save '
                                                      'logs/t/teacher/seed0')
    assert '; cifar.py --save logs/t/killed/seed0 ' in last
    for k in ('taught', 'taught_by_killed'):
        assert f'(its teacher failed) cifar.py --save logs/t/{k}/seed0' in last
        assert not pathlib.Path('logs/t', k).exists()
    assert not pathlib.Path('logs/t/teacher').exists()      # the bad command left nothing behind
    assert re.search(r'^a bad row +0', out, re.M)

    assert call_run('t', '--root', 'logs', '--only', 'killed') == 0
    lines = runs.read_log('logs/t/killed/seed0/log.txt')
    assert [z['epoch'] for z in lines[1:]] == [1, 2] and 'continued' in lines[2]
    assert pathlib.Path('trained').read_text().split() == ['logs/t/killed/seed0'] * 2
    assert not list(pathlib.Path('logs').rglob('lock'))
    assert re.search(r'^killed after an epoch +\d+\.\d\d +1', capfd.readouterr().out, re.M)
    assert pathlib.Path('logs/t/curves.png').exists()

    monkeypatch.setattr(subprocess, 'Popen', None)
    assert call_run('t', '--root', 'logs', '--only', 'killed') == 0
    assert 'logs/t/killed/seed0 is finished' in capfd.readouterr().out


def test_what_another_process_runs_is_left_for_later(two_tables, fake, sleep, capsys):
    """The teacher is being trained elsewhere; its student waits, the other rows do not."""
    started, elsewhere = fake(finish), contextlib.ExitStack()
    elsewhere.enter_context(runs.lock('r/t/teacher/seed0'))
    finish(['cifar.py', '--save', 'r/t/teacher/seed0'])     # its last checkpoint is still missing

    def let_go(seconds):
        finish(next(tables.commands('t', 'r')))
        elsewhere.close()

    sleep(let_go)
    tables.run_tables(['t'], 'r', 1)
    assert started == ['r/t/student/seed0', 'r/t/at/seed0']
    assert 'waiting for other processes: r/t/teacher/seed0, r/t/at/seed0' in capsys.readouterr().out


def test_lock_that_another_process_was_faster_to_take_is_no_failure(two_tables, fake, sleep):
    elsewhere, slept = contextlib.ExitStack(), []

    def process(words):
        if len(started) > 1:
            return finish(words)
        elsewhere.enter_context(runs.lock(words[2]))
        return 2

    def let_go(seconds):
        slept.append(seconds)
        elsewhere.close()

    started = fake(process)
    sleep(let_go)
    tables.run_tables(['t'], 'r', 1, 'student')
    assert started == ['r/t/student/seed0'] * 2 and slept == [tables.WAIT]


def test_interrupt_stops_everything(two_tables, fake):
    for status in (130, -signal.SIGINT):
        started = fake(lambda words, status=status: status)
        assert call_run('t', '--root', 'r') == 130
    assert started == ['r/t/teacher/seed0'] * 2


def test_time_that_is_up_ends_a_run_early_and_starts_none(two_tables, small, capfd):
    catalogue.TABLES['t']['common'] = ROW_OPTIONS.replace('--epochs 1', '--epochs 3')
    flags = 't', '--root', 'logs', '--seeds', '1', '--only', 'at'
    assert call_run(*flags, '--minutes', '0.001') == 0
    out, log = capfd.readouterr().out, pathlib.Path('logs/t/teacher/seed0/log.txt')
    assert out.endswith('the time is up; the same command continues\n') and out.count('$') == 1
    assert [z['epoch'] for z in runs.read_log(log)[1:]] == [1]
    assert re.search(r'^WRN-10-1 +0$', out, re.M) and not pathlib.Path('logs/t/at').exists()
    assert call_run(*flags) == 0
    out = capfd.readouterr().out
    lines = runs.read_log(log)
    assert [z['epoch'] for z in lines[1:]] == [1, 2, 3] and 'continued' in lines[2]
    assert 'time is up' not in out and re.search(r'^WRN-10-1, AT .* 1 ', out, re.M)


def test_time_may_be_limited_from_outside(two_tables, fake, monkeypatch, capsys):
    monkeypatch.setenv('STOP_AT', '1')
    started = fake(finish)
    tables.run_tables(['t'], 'r', 1, '', 1, 5.)
    assert not started and 'the time is up' in capsys.readouterr().out


# ---- several at once ----------------------------------------------------------------------------

@pytest.mark.parametrize('at_once', [1, 3])
def test_two_runs_share_the_work(two_tables, fake, gpu, monkeypatch, at_once):
    """Each folder is trained once, a student after its teacher. What is run is a short sleep."""
    def train(words):
        if not tables.has_finished(words):
            teachers = [w for w in words[3:] if w.startswith('r/')]
            assert all(pathlib.Path(t, 'model.pt7').exists() for t in teachers)
            print(words[2], file=open('trained', 'a'))
            finish(words)
            time.sleep(.05)
            pathlib.Path(words[2], 'model.pt7').write_text('')

    def process(words):
        with contextlib.ExitStack() as stack:
            try:
                for part in plus(words):
                    stack.enter_context(runs.lock(part[2]))
            except tables.InputError:
                return 2
            for part in plus(words):
                train(part)
        return 0

    fake(process)
    monkeypatch.setattr(tables, 'WAIT', .02)
    context = multiprocessing.get_context('fork')
    both = [context.Process(target=tables.run_tables, args=(['t'], 'r', 8, '', at_once))
            for _ in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    assert sorted(pathlib.Path('trained').read_text().split()) == sorted(
        saves(tables.commands('t', 'r', 8)))
    assert not list(pathlib.Path('r').rglob('lock'))


def test_cpu_has_as_many_processes_as_asked_and_as_cores(two_tables, fake, sleep, monkeypatch):
    alive, most, threads = [], [], []

    def start(command, env):
        words, polls = ['cifar.py', *command[2:]], iter([None] * 3 * (len(most) + 1))
        alive.append(words[2])
        most.append(len(alive))
        threads.append(env['OMP_NUM_THREADS'])

        def poll():
            status = next(polls, 0)
            if status == 0 and words[2] in alive:
                alive.remove(words[2])
                finish(words)
            return status
        return mock.Mock(returncode=0, poll=poll)

    fake(None)
    sleep(lambda seconds: None)
    monkeypatch.setattr(tables, 'subprocess', types.SimpleNamespace(Popen=start))
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    tables.run_tables(['t'], 'r', 2, '', 3)
    assert most == [1, 2, 2, 2, 2, 2] and threads == ['1'] * 6 and not alive
    assert all(map(tables.has_finished, tables.commands('t', 'r', 2)))
    most.clear()
    tables.run_tables(['u'], 'r', 3)       # one at a time has all threads
    assert most == [1] * 5 and threads[6:] == ['5'] * 5


def test_runs_of_two_tables_two_at_once_on_a_cpu(two_tables, small, monkeypatch, capfd):
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    flags = '--root', 'logs', '--seeds', '1', '--at_once', '2'
    assert call_run('t', 'u', *flags) == 0
    trained = [s.removeprefix('logs/') for s in pathlib.Path('trained').read_text().split()]
    assert set(trained[:2]) == {'t/teacher/seed0', 't/student/seed0'}
    assert set(trained[2:]) == {'t/at/seed0', 'u/own/seed0'} and len(trained) == 4
    assert all(runs.read_log(f'logs/{k}/log.txt')[0]['threads'] == 1 for k in trained)
    out = capfd.readouterr().out
    assert out.count('A table\n') == 2 and re.search(r'^own +\d.* 1 ', out, re.M)
    tables.main(['show', 'u', 't', '--root', 'logs'])
    assert '\n\nA table\ntest error, %' in capfd.readouterr().out


def test_gpu_has_runs_side_by_side_in_one_process(two_tables, fake, gpu, capsys):
    lines = []

    def process(words):
        lines.append(words)
        return max(map(finish, plus(words)))

    fake(process)
    tables.run_tables(['t', 'u'], 'r', 2, '', 3)
    commands = tables.all_commands(['t', 'u'], 'r', 2)
    assert [saves(plus(words)) for words in lines] == [
        ['r/t/teacher/seed0', 'r/t/student/seed0', 'r/t/teacher/seed1'],
        ['r/t/at/seed0', 'r/t/student/seed1', 'r/t/at/seed1'],
        ['r/u/own/seed0', 'r/u/own/seed1']]
    assert sorted(words for line in lines for words in plus(line)) == sorted(commands)
    assert f'$ python {shlex.join(lines[2])}\n' in capsys.readouterr().out
    assert lines[2].count('+') == 1 and lines[2].count('cifar.py') == 1


@pytest.mark.parametrize('status', [1, 2, -9])
def test_runs_that_fail_together_are_tried_alone(two_tables, fake, gpu, status):
    """One had a loss that is not finite, they were refused together, or memory was not enough."""
    started = fake(lambda words: status if '+' in words or 'student' in words[2] else finish(words))
    with pytest.raises(RunError, match='^failed: cifar.py --save r/t/student/[^;]*$'):
        tables.run_tables(['t'], 'r', 1, '', 2)
    assert started == ['r/t/teacher/seed0', 'r/t/teacher/seed0', 'r/t/student/seed0',
                       'r/t/at/seed0']


def test_runs_side_by_side_are_trained_and_one_that_fails_is_named(monkeypatch, small, gpu, capfd):
    """As a GPU would have it; what is started here trains on the CPU, one run after another."""
    rows = {'teacher': row('teacher', seeds=1),
            'wild': choice('a loss that is not finite', '--lr 1e30'),
            'at': choice('taught', '--teacher_id @teacher --beta 1'),
            'none': choice('taught by none', '--teacher_id @wild --beta 1')}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': small_table(rows)})
    assert call_run('t', '--root', 'logs', '--at_once', '4') == 1
    out, err = capfd.readouterr()
    assert err.splitlines()[-1].startswith('error: failed: cifar.py --save logs/t/wild/seed0 ')
    assert '; (its teacher failed) cifar.py --save logs/t/none/seed0 ' in err.splitlines()[-1]
    assert 'error: logs/t/wild/seed0: the loss is not finite' in err and 'Traceback' not in err
    assert pathlib.Path('trained').read_text().split() == [
        f'logs/t/{row}/seed0' for row in ('teacher', 'wild', 'wild', 'at')]
    for label in ('teacher', 'taught'):
        assert re.search(rf'^{label} +\d+\.\d\d .* 1 ', out, re.M)


def test_lock_of_another_process_is_no_reason_to_run_alone(two_tables, fake, gpu, sleep):
    elsewhere, lines = contextlib.ExitStack(), []

    def process(words):
        lines.append(saves(plus(words)))
        if len(lines) == 1:
            elsewhere.enter_context(runs.lock('r/t/teacher/seed0'))
            return 2
        return max(map(finish, plus(words)))

    fake(process)
    sleep(lambda seconds: elsewhere.close())
    tables.run_tables(['t'], 'r', 2, '', 2)
    assert lines == [['r/t/teacher/seed0', 'r/t/student/seed0'],
                     ['r/t/student/seed0', 'r/t/teacher/seed1'],
                     ['r/t/student/seed1', 'r/t/at/seed1'],
                     ['r/t/teacher/seed0'], ['r/t/at/seed0']]


def test_interrupt_leaves_nothing_running(small):
    """The terminal sends it to all."""
    rows = {k: row(k, seeds=1) for k in 'ab'}
    code = f'''
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import pathlib, tables
from engine import script
from papers import catalogue
os.cpu_count = lambda: 2
tables.HOME = pathlib.Path()
catalogue.TABLES = dict(t={small_table(rows, ROW_OPTIONS.replace('--epochs 1', '--epochs 100000'))})
script.run(lambda: tables.main(['run', 't', '--at_once', '2']))
'''
    process = subprocess.Popen([sys.executable, '-c', code], text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun = set()
    while len(begun) < 2:       # both are training
        line = process.stdout.readline()
        assert line
        begun |= set(re.findall(r'^\S+(?=: epoch 1/)', line))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)    # all that write there have ended
    assert process.returncode == 130 and 'Traceback' not in err and err.count('interrupted') == 1
    assert not list(pathlib.Path('results').rglob('lock'))


def test_process_that_no_interrupt_has_reached_is_ended(monkeypatch):
    monkeypatch.setattr(tables, 'PATIENCE', .1)
    process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    tables.end_processes([process])
    assert process.returncode == -signal.SIGTERM
