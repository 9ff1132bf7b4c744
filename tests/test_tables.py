"""Tables from logs, the runs behind them and what keeps those apart, and what report writes."""
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
import types
from unittest import mock

import pytest
import torch
from helpers import ROOT, SMALL

import cifar
import finetune
import imagenet
import tables
from engine import plots, runs, script
from methods import fine_tuning
from papers import catalogue, pages, results
from papers.commands import command
from papers.rows import choice, error_of, row
from utils import RunError
from weights import store

QUICK = '--dataset shapes --depth 10 --epochs 1 --batch_size 64'
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


def table(rows, common=QUICK, **more):
    return dict(title='A table', epochs=1, medians=False, common=common, rows=rows) | more


def write_run(folder, errors, epochs=None, seconds=2., torch='2', options=None, **more):
    """A log with the given test errors, one an epoch; `more` is said in each."""
    options = dict(epochs=epochs or len(errors), epoch_step=[3], dtype='float') | (options or {})
    lines = [options | dict(device='a processor', threads=2, torch=torch)]
    lines += [options | dict(epoch=k + 1, test_acc=100 - e, train_acc=50., train_time=seconds,
                             test_time=1., **more) for k, e in enumerate(errors)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'log.txt').write_text(''.join(f'json_stats: {json.dumps(z)}\n' for z in lines))


def lines_of(name, root='results'):
    return results.table_lines(name, results.logs_of(name, root))


def saves(commands):
    return [words[2] for words in commands]


@pytest.fixture
def two_tables(monkeypatch):
    """`t` of three rows, `u` with two of those and one of its own."""
    t = {'teacher': row('WRN-10-1', seeds=2), 'student': row('alone', seeds=2),
         'at': row('WRN-10-1, AT', '5.00', 'a book', '--teacher_id @teacher --beta 10',
                             'student', 2)}
    u = {'t/student': row('none', '9.00', seeds=2),
         'own': row('own', '', '', '--teacher_id @t/teacher --beta 1', 't/student', 4)}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': table(t), 'u': table(u, medians=True)})


@pytest.fixture
def small(monkeypatch, tmp_path):
    """What `run` starts is SCRIPT."""
    (tmp_path / 'cifar.py').write_text(SCRIPT)
    monkeypatch.setattr(tables, 'HOME', tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')


# ---- the commands -------------------------------------------------------------------------------

def test_commands_are_shell_lines_with_teachers_first(two_tables, capsys):
    tables.main(['commands', 't', '--root', 'some where/'])
    words = [shlex.split(s)[1:] for s in capsys.readouterr().out.splitlines()]
    assert saves(words) == [f'some where/t/{row}/seed{k}' for k in (0, 1)
                            for row in ('teacher', 'student', 'at')]
    assert words[5][words[5].index('--teacher_id') + 1] == 'some where/t/teacher/seed1'
    tables.main(['commands', 't', '--seeds', '1'])
    assert len(capsys.readouterr().out.splitlines()) == 3
    catalogue.TABLES['t']['rows']['student']['seeds'] = 1
    assert len(list(tables.commands('t', 'results'))) == 5


def test_rows_of_another_table_are_run_there_and_once(two_tables):
    assert saves(tables.commands('u', 'r', seeds=1)) == ['r/t/student/seed0', 'r/t/teacher/seed0',
                                                         'r/u/own/seed0']
    # a row of more seeds than its teacher has them all taught
    assert saves(tables.commands('u', 'r', only='own')) == [
        f'r/{row}/seed{k}' for k in range(4) for row in ('t/teacher', 'u/own')]


def test_one_row_with_its_teachers(two_tables, fails):
    assert saves(tables.commands('t', 'r', 1, 'at')) == ['r/t/teacher/seed0', 'r/t/at/seed0']
    assert saves(tables.commands('t', 'r', 1, 'student')) == ['r/t/student/seed0']
    status, said = fails(tables.main, 'commands', 't', '--only', 'nothing')
    assert status == 2 and 'no row nothing; its rows are teacher, student, at' in said


def test_short_schedule_has_a_folder_of_its_own_and_fewer_seeds(two_tables, capsys):
    tables.main(['commands', 'u', '--epochs', '7'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        'python cifar.py --save results/u-7epochs/own/seed0 --teacher_id '
        f'results/t-7epochs/teacher/seed0 --beta 1 {QUICK.replace("--epochs 1", "--epochs 7")} '
        "--epoch_step '[0.3,0.6,0.8]' --seed 0")
    assert len(lines) == 3 + 3 + 2
    tables.main(['commands', 'u-7epochs'])
    assert capsys.readouterr().out.splitlines() == lines


def test_words_that_mean_nothing_are_refused(fails):
    for flags in (['show'], ['show', 'unknown'], ['run', 'demo-epochs'],
                  ['show', 'demo-2epochs', '--epochs', '3']):
        status, said = fails(tables.main, *flags)
        assert status == 2 and 'demo' in said and len(said.splitlines()) == 1
    for flag in ('--epochs', '--seeds'):
        assert fails(tables.main, 'run', 'demo', flag, 0)[0] == 2


@pytest.mark.parametrize('name', catalogue.TABLES)
def test_commands_of_the_papers_tables_are_understood(name):
    rows = catalogue.TABLES[name]['rows']
    assert all(r['plain'] in ('', *rows) and (r['source'] or not r['paper']) for r in rows.values())
    options = {words[2]: parse(words) for words in tables.commands(name, 'r', 1)}
    for opt in options.values():
        if teacher_of(opt) and teacher_of(opt) not in store.KNOWN:
            assert not teacher_of(options[teacher_of(opt)])


def parse(words):
    return {'cifar.py': cifar, 'imagenet.py': imagenet, 'finetune.py': finetune}[words[0]].parse(
        words[1:])


def teacher_of(opt):
    return next(getattr(opt, k) for k in ('teacher_id', 'teacher_params', 'teacher') if k in opt)


def test_plain_students_are_their_students_nets():
    for name, t in catalogue.TABLES.items():
        for key, r in t['rows'].items():
            if r['plain'] and '--keep_head' not in r['options']:    # another stage, of another rate
                a, b = (vars(parse(command(name, k, 0, 'r'))) for k in (key, r['plain']))
                for k in ('model', 'arch', 'depth', 'width', 'no_bn', 'no_pool_relu', 'lr',
                          'source', 'domain', 'target', 'per_class', 'iterations'):
                    assert a.get(k) == b.get(k), (name, key, k)


# ---- the numbers --------------------------------------------------------------------------------

def test_numbers_come_from_the_finished_runs(two_tables, tmp_path):
    catalogue.TABLES['t']['common'] = '--epochs 3'
    write_run(tmp_path / 'results/t/at/seed0', [30, 20, 10.])
    write_run(tmp_path / 'results/t/at/seed1', [30, 20, 12.], seconds=3.)
    write_run(tmp_path / 'results/t/at/seed2', [30, 20, 50.], epochs=9)     # not finished
    write_run(tmp_path / 'results/t/at/seed3', [30, 20])    # of another schedule
    head, _, teacher, _, at, *_, note = lines_of('t')
    assert head == '| test error, % | paper | ours | n | seconds per run |'
    assert teacher == '| WRN-10-1 |  |  | 0 |  |'
    assert at == '| [WRN-10-1, AT](at) | 5.00 | 11.00 ± 1.41 | 2 | 10 |'
    assert note == "3 epochs, learning rate drops at epoch 3. a processor, torch 2. float, " \
                   "threads: 2. The paper's numbers were checked against a book."


def test_errors_have_the_digits_of_the_accuracies():
    assert [error_of(s) for s in ('88.7±0.1', '75.61', '100.0')] == ['11.3 ± 0.1', '24.39', '0.0']


def test_difference_is_paired_over_common_seeds():
    plain = {0: 20., 1: 21., 2: 25.}
    # differences -3, -4, -8: mean -5, deviation sqrt(14/2), by sqrt(3)
    assert results.difference({0: 17., 1: 17., 2: 17.}, plain) == '-5.00 ± 1.53'
    assert results.difference({1: 17., 2: 19., 3: 90.}, plain) == '-5.00 ± 1.00 (n = 2)'
    assert results.difference({2: 26.}, plain) == '+1.00'
    assert results.difference({3: 26.}, plain) == results.difference({3: 26.}, {}) == ''


def test_median_and_difference_to_a_row_of_another_table(two_tables, tmp_path):
    for k, error in enumerate((10., 11., 15.)):
        write_run(tmp_path / f'results/u/own/seed{k}', [error])
        write_run(tmp_path / f'results/t/student/seed{k}', [20. + 3 * k])
    head, _, none, own, *_ = lines_of('u')
    assert head == '| test error, % | paper | ours | median | vs. the plain student | n | ' \
                   'seconds per run |'
    assert none == ('| [none](../t/student) | 9.00 | 23.00 ± 3.00 | 23.00 |  | 3 '
                    '| 3 |')
    # differences -10, -12, -11
    assert own == '| [own](own) |  | 12.00 ± 2.65 | 11.00 | -11.00 ± 0.58 | 3 | 3 |'
    assert f'{statistics.stdev([-10, -12, -11]) / 3 ** .5:.2f}' == '0.58'


def test_short_schedule_shows_what_was_run_alone(two_tables, tmp_path, capsys):
    for name, epochs in (('u', 1), ('u-7epochs', 7)):
        write_run(tmp_path / f'results/{name}/own/seed0', [10.] * epochs)
    head, _, own, _, note = lines_of('u-7epochs')
    assert head == '| test error, % | ours | n | seconds per run |' and own.startswith('| [own]')
    assert note.endswith('Rows without a finished run, which are not shown: 1.')
    assert len(lines_of('u')) == 6
    tables.main(['show', 'u', '--epochs', '7'])
    out = capsys.readouterr().out
    assert out.startswith('A table, in 7 epochs instead of 1\n') and 'none' not in out
    assert (tmp_path / 'results/u-7epochs/curves.png').exists()
    write_run(tmp_path / 'results/t-7epochs/student/seed0', [12.] * 7)
    head, _, none, own, *_ = lines_of('u-7epochs')
    assert '| paper, 1 epoch |' in head and '| -2.00 |' in own
    assert lines_of('u-8epochs') == ['', 'No run is finished yet.']
    tables.main(['show', 'u', '--epochs', '8'])


def test_seconds_are_robust_to_one_slow_epoch(two_tables, tmp_path):
    catalogue.TABLES['t']['common'] = '--epochs 3'
    write_run(tmp_path / 'results/t/at/seed0', [30, 20, 10.])
    log = tmp_path / 'results/t/at/seed0/log.txt'
    log.write_text(log.read_text().replace('"train_time": 2.0', '"train_time": 99.0', 1))
    assert '| 9 |' in lines_of('t')[4]


def test_several_machines_are_counted_in_order(two_tables, tmp_path):
    for k, version in enumerate('98898'):
        write_run(tmp_path / f'results/t/at/seed{k}', [1.], torch=version)
    assert ('. a processor, torch 8 (3 of 5 runs); a processor, torch 9 (2 of 5 runs). float, '
            in lines_of('t')[-1])


@pytest.fixture
def home(two_tables, tmp_path, monkeypatch):
    """A repository with the two tables, runs of `t` and of `u` in 7 epochs, and a README."""
    monkeypatch.setattr(tables, 'HOME', tmp_path)
    monkeypatch.setattr(pages, 'STATUS', {'Tables': {'t': ('table 1', ['at', 'teacher'], ''),
                                                     'u': ('table 2', ['own'], 'needs time')}})
    monkeypatch.setattr(pages, 'TEXTS', {'u-7epochs': 'A caveat.\n'})
    (tmp_path / 'README.md').write_text('before\n<!-- status -->\nold\n<!-- end of status -->\n'
                                        'after\n')
    write_run(tmp_path / 'results/t/teacher/seed0', [3.])
    write_run(tmp_path / 'results/u-7epochs/own/seed0', [10.] * 7)
    write_run(tmp_path / 'results/t-7epochs/student/seed0', [12.] * 7)
    for name in ('bench', 'nothing-7epochs', 't-8epochs', 'elsewhere'):
        (tmp_path / 'results' / name).mkdir()
    return tmp_path


def test_report_writes_status_and_pages(home, monkeypatch):
    monkeypatch.chdir(home / 'results/elsewhere')
    tables.main(['report'])
    with pytest.raises(tables.InputError, match='no table'):
        tables.main(['report', 't'])
    text = (home / 'README.md').read_text()
    assert text.startswith('before\n<!-- status -->\n**Tables**\n\n| table | row | ')
    assert text.endswith('\n<!-- end of status -->\nafter\n') and 'old' not in text
    found = {str(path.parent.relative_to(home)) for path in home.glob('results/*/README.md')}
    assert found == {f'results/{k}' for k in ('t', 'u-7epochs', 't-7epochs')}
    assert all((home / folder / 'curves.png').exists() for folder in found)
    page = (home / 'results/u-7epochs/README.md').read_text()
    assert '\n# A table, in 7 epochs instead of 1\n' in page and '\n\nA caveat.\n\n![' in page
    assert '[own](own)' in page and '[none](../t-7epochs/student)' in page
    assert pages.texts(home, pages.read_logs(home / 'results')) == {
        home / 'README.md': text,
        **{home / k / 'README.md': (home / k / 'README.md').read_text() for k in found}}


def test_page_says_how_its_columns_are_read(home):
    found = pages.read_logs(home / 'results')
    page = pages.page('u-7epochs', home / 'results', found['u-7epochs'])
    assert '\n* *ours*: test error after the **last** epoch, mean ±' in page
    assert '\n* *vs. the plain student*: ' in page
    assert 'numbers are for **1 epoch**, ours for **7**' in page and 'MACs' not in page
    page = pages.page('t', home / 'results', found['t'])
    assert 'vs.' not in page and 'do not compare' not in page


def test_status_has_a_row_for_each_table(home):
    def rows():
        return pages.status(pages.read_logs(home / 'results'))[4:-1]

    head = pages.status(pages.read_logs(home / 'results'))[2]
    assert head == '| table | row | ours | schedule | n | logs | command |'
    t, u = rows()
    assert t == ('| table 1 | WRN-10-1 | 3.00 | 1 epoch | 1 | [t](results/t) | `python tables.py '
                 'run t` ([cifar.py](cifar.py)) |')
    assert u == ('| table 2 | own | 10.00 (-2.00 vs. the plain student) | 7 of 1 epoch | 1 | '
                 '[u-7epochs](results/u-7epochs) | `python tables.py run u --epochs 7` '
                 '([cifar.py](cifar.py)) |')
    (home / 'results/u-7epochs/own/seed0/log.txt').unlink()
    assert rows()[1] == ('| table 2 | own | not run: needs time | 1 epoch |  |  | `python '
                         'tables.py run u` ([cifar.py](cifar.py)) |')


def test_tables_have_a_status_or_are_grids_of_choices():
    status = [name for part in pages.STATUS.values() for name in part]
    assert set(status) == {name for name in catalogue.TABLES if 'choices' not in name}
    for name, (_, rows, _) in (pair for part in pages.STATUS.values() for pair in part.items()):
        assert set(rows) <= set(catalogue.TABLES[name]['rows'])


def test_report_is_up_to_date():
    """README.md and the pages in results/ are what report would write, and there are no others."""
    found = pages.read_logs(ROOT / 'results')
    for path, text in pages.texts(ROOT, found).items():
        assert path.read_text() == text, 'run: python tables.py report'
    assert {path.parent.name for path in ROOT.glob('results/*/README.md')} == set(found)
    assert set(pages.TEXTS) <= set(found)
    assert '<!-- status -->\n**' in (ROOT / 'README.md').read_text()


# Their logs say that the working tree differed from the revision: the run before them had redrawn
# results/cifar10-10epochs/curves.png. Since then only source files count.
REDRAWN = {*(f'cifar10-choices/at_kd_{k}' for k in ('constant', 'linear', 'cosine', 'step')),
           'cifar10-gradients-5epochs/min_l2'}


def test_logs_in_results_are_whole(monkeypatch):
    """Each is that of a finished run of its row, and holds the command and the revision."""
    monkeypatch.chdir(ROOT)
    logs = list(pathlib.Path('results').glob('*/*/seed*/log.txt'))
    assert logs
    for log in logs:
        _, table, row, seed, _ = log.parts
        assert tables.has_finished(command(table, row, int(seed.removeprefix('seed')), 'results'))
        first = runs.read_log(log)[0]
        assert f'--save {log.parent} ' in first['command'] and len(first['git']) == 40
        assert not first['git_dirty'] or f'{table}/{row}' in REDRAWN


# ---- running ------------------------------------------------------------------------------------

def call_run(*flags):
    with pytest.raises(SystemExit) as e:
        script.run(lambda: tables.main(['run', *flags]))
    return e.value.code


def test_run_goes_on_after_failures_and_continues_what_was_cut_off(monkeypatch, capfd, small):
    rows = {'teacher': row('a bad row', options='--depth 11', seeds=1),
            'killed': row('killed after an epoch', seeds=1),
            'taught': choice('taught by none', '--teacher_id @teacher --beta 1'),
            'taught_by_killed': choice('taught', '--teacher_id @killed --beta 1')}
    common = '--dataset shapes --depth 10 --batch_size 64 --epochs 2 --save_every 0'
    rows = {k: r | dict(options=f'{common} {r["options"]}') for k, r in rows.items()}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': table(rows, '')})
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

    monkeypatch.setattr(tables, 'show', lambda *a: None)
    return replace


@pytest.fixture
def sleep(monkeypatch):
    """Instead of sleeping, `run` calls a function of the seconds."""
    def replace(function):
        monkeypatch.setattr(tables, 'time', types.SimpleNamespace(
            sleep=function, time=time.time, monotonic=time.monotonic))
    return replace


def finish(words):
    write_run(pathlib.Path(words[2]), [1.], options=vars(tables.options_of(words)))
    return 0


def plus(words):
    """The command lines that stand side by side in one."""
    return [[words[0], *part.split()] for part in ' '.join(words[1:]).split(' + ')]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


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


def test_finished_means_these_options(two_tables, fake):
    words = next(tables.commands('t', 'r'))
    assert not tables.has_finished(words)
    finish(words)
    assert tables.has_finished(words) and not tables.has_finished([*words, '--lr', '1'])
    pathlib.Path(words[2], 'log.txt').write_text('json_stats: [')
    assert not tables.has_finished(words)


def test_a_run_is_known_by_its_options_and_not_by_their_text(two_tables):
    words = ['cifar.py', '--save', 'a', *QUICK.split(), '--teacher_id', 'b', '--beta', '1e+3']
    finish(words)
    same = ['--beta=1000', '--nthread 0', '--dataroot elsewhere', '--beta_decay constant',
            '--epoch_step [60,120,160] --lr 1e-1']
    other = ['--beta 100', '--seed 1', '--dtype float', '--epochs 2', '--teacher_id c',
             '--epoch_step [1]', '--no_such_flag']
    for flags in same:
        assert tables.has_finished([*words, *flags.split()]), flags
    for flags in other:
        assert not tables.has_finished([*words, *flags.split()]), flags


def test_option_that_a_log_lacks_counts_as_its_default(two_tables):
    words = ['cifar.py', '--save', 'a', *QUICK.split()]
    options = vars(tables.options_of(words))
    write_run(pathlib.Path('a'), [1.], options={k: v for k, v in options.items() if k != 'at_map'})
    assert tables.has_finished(words) and not tables.has_finished([*words, '--at_map', 'max'])


def test_number_of_epochs_that_images_decide_is_that_of_the_log():
    words = ['finetune.py', '--save', 'a', '--source', 'resnet18', '--iterations', '40']
    options = vars(tables.options_of(words))
    write_run(pathlib.Path('a'), [1., 2.], options=options | dict(epochs=2, epoch_step=[2]))
    assert tables.has_finished(words)
    for flags in ('--iterations 60', '--epoch_steps 10', '--epochs 3'):
        assert not tables.has_finished([*words, *flags.split()]), flags


# ---- several runs at once -----------------------------------------------------------------------

def folders(groups):
    return [saves(group) for group in groups]


def run_of(folder, *options):
    return ['cifar.py', '--save', folder, *options]


def test_what_is_ready_waits_for_teachers_and_locks_and_fills_the_places():
    commands = [run_of('a'), run_of('b'), run_of('c', '--teacher_id', 'a'), run_of('d')]
    for states, folders_ready in (('wwww', 'abd'), ('rwww', 'bd'), ('fwww', 'bcd'), ('xwfw', 'bd')):
        words = dict(w='waiting', r='running', f='finished', x='failed')
        states = {k: words[v] for k, v in zip('abcd', states, strict=True)}
        assert saves(tables.ready(commands, states)) == list(folders_ready)
    with runs.lock('b'):
        assert saves(tables.ready(commands, dict.fromkeys('abcd', 'waiting'))) == ['a', 'd']
    some = [run_of('a'), run_of('b'), run_of('d')]
    assert folders(tables.side_by_side(some, 2, 1)) == [['a'], ['b']]
    assert folders(tables.side_by_side(some, 1, 2)) == [['a', 'b']]
    assert folders(tables.side_by_side(some, 1, 9)) == [['a', 'b', 'd']]
    assert tables.side_by_side(some, 0, 9) == []


def test_one_process_takes_runs_that_share_what_the_scripts_demand():
    shapes, few = ('--dataset', 'shapes', '--lr', '1'), ('--dataset', 'shapes', '--epochs', '1')
    commands = [run_of('a', *shapes), run_of('b', *few), run_of('c', '--evaluate', 'x'),
                run_of('d', '--lr', '2', *shapes), run_of('e', *shapes, '--deterministic'),
                run_of('f', *few, '--epochs', '2'), run_of('g', '--epochs', '2', *few),
                run_of('h', '--evaluate', 'x'), ['imagenet.py', *run_of('i', *shapes)[1:]],
                run_of('j', *shapes), run_of('k', '--deterministic', *shapes, '--seed', '3')]
    assert folders(tables.side_by_side(commands, 99, 99, {'j'})) == [
        ['a', 'd'], ['b', 'g'], ['c'], ['e', 'k'], ['f'], ['h'], ['i'], ['j']]


def test_failure_is_that_of_students_and_their_students():
    commands = [run_of('a'), run_of('b', '--teacher_id', 'a'), run_of('c', '--teacher_id', 'b'),
                run_of('d')]
    states = tables.with_failed_students(
        commands, dict(a='failed', b='waiting', c='waiting', d='waiting'))
    assert states == dict(a='failed', b='failed', c='failed', d='waiting')
    assert tables.failures(commands, states) == [
        'cifar.py --save a', '(its teacher failed) cifar.py --save b --teacher_id a',
        '(its teacher failed) cifar.py --save c --teacher_id b']


@pytest.mark.parametrize('status, folders, late, states', [
    (0, 'a', False, 'finished'), (0, 'a', True, 'waiting'),         # the clock stopped it
    (1, 'a', False, 'failed'), (1, 'a', True, 'failed'), (2, 'a', False, 'failed'),
    (2, 'locked', False, 'waiting'),                                # another process was faster
    (0, 'ab', False, 'finished finished'), (1, 'ab', True, 'waiting waiting'),
    # each by itself
    (1, 'ab', False, 'waiting! waiting!'), (-9, 'ab', False, 'waiting! waiting!'),
    (1, ['done', 'b'], False, 'finished waiting!'), (2, ['locked', 'b'], False, 'waiting waiting'),
])
def test_what_has_become_of_the_runs_of_a_process(status, folders, late, states):
    folders = [folders] if folders == 'locked' else list(folders)
    group = [run_of(folder, *QUICK.split()) for folder in folders]
    finish(run_of('done', *QUICK.split()))
    found, alone = {}, set()
    with runs.lock('locked'):
        tables.note_end(group, status, found, alone, late)
    expected = dict(zip(folders, states.split(), strict=True))
    assert found == {k: v.removesuffix('!') for k, v in expected.items()}
    assert alone == {k for k, v in expected.items() if v.endswith('!')}


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


def test_time_that_is_up_ends_a_run_early_and_starts_none(two_tables, small, capfd):
    catalogue.TABLES['t']['common'] = QUICK.replace('--epochs 1', '--epochs 3')
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
    monkeypatch.setattr(catalogue, 'TABLES', {'t': table(rows)})
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
catalogue.TABLES = dict(t={table(rows, QUICK.replace('--epochs 1', '--epochs 100000'))})
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


# ---- the lock -----------------------------------------------------------------------------------

def test_lock_is_for_one_and_leaves_no_empty_folder(tmp_path):
    with runs.lock('a/b/c'):
        assert tables.locked('a/b/c') and not tables.locked('a/b')
        with pytest.raises(tables.InputError, match='another process is at work on a/b/c'):
            with runs.lock('a/b/c'):
                pass
        (tmp_path / 'a/kept').write_text('')
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'kept']
    assert not tables.locked('a/b/c') and not (tmp_path / 'a/b').exists()
    with pytest.raises(ZeroDivisionError), runs.lock('x/y'):
        (tmp_path / 'x/y/log.txt').write_text('')
        raise ZeroDivisionError
    assert [p.name for p in (tmp_path / 'x/y').iterdir()] == ['log.txt']
    with pytest.raises(runs.InputError, match='a/kept/b is, or'), runs.lock('a/kept/b'):
        pass


def test_lock_ends_with_its_process():
    code = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
from engine import runs
with runs.lock('a'):
    print('held', flush=True)
    sys.stdin.read()
'''
    holder = subprocess.Popen([sys.executable, '-c', code], text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == 'held\n'
    assert tables.locked('a')
    with pytest.raises(tables.InputError), runs.lock('a'):
        pass
    holder.kill()
    holder.communicate()
    assert pathlib.Path('a/lock').exists() and not tables.locked('a')
    with runs.lock('a'):
        assert tables.locked('a')


def test_lock_of_a_file_that_was_just_removed_is_none(monkeypatch):
    """Between opening and locking the holder lets go; who took that file would be alone with it."""
    real, calls = runs.fcntl.flock, []

    def flock(*args):
        calls.append(args)
        if len(calls) == 1:
            pathlib.Path('a/lock').unlink()
        real(*args)

    monkeypatch.setattr(runs.fcntl, 'flock', flock)
    with runs.lock('a'):
        assert len(calls) == 2 and pathlib.Path('a/lock').exists()


def test_second_process_is_refused(fails, tmp_path):
    """By the script itself, before anything is read or written."""
    with runs.lock('logs/a'):
        status, said = fails(cifar.main, '--save', 'logs/a', *QUICK.split())
    assert status == 2 and 'another process is at work on logs/a' in said
    assert not (tmp_path / 'logs').exists()


def test_error_against_multiply_adds(monkeypatch, tmp_path, capsys):
    rows = {'l2': row('L2, 1x', seeds=2), 'magnitude_2x': row('magnitude, 2x'),
            'afs_2x': row('AFS, 2x', seeds=2), 'afs_4x': row('AFS, 4x')}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': table(rows, epochs=1, pruned=True)})
    drawn = []
    monkeypatch.setattr(plots, 'plot_points', lambda *a, **labels: drawn.append(a))
    for seed, error in enumerate((30., 32.)):
        write_run(tmp_path / f'r/t/l2/seed{seed}', [error])
        write_run(tmp_path / f'r/t/afs_2x/seed{seed}', [error + 10], multiply_adds_before=200,
                  multiply_adds=100 + 2 * seed, multiply_adds_dynamic=80)
    tables.main(['show', 't', '--root', 'r'])
    head, *lines = [re.split('  +', s) for s in capsys.readouterr().out.splitlines()[1:5]]
    assert head[2:4] == ['MACs, %', 'MACs per image, %']
    assert lines[0][2:4] == ['100.0', '100.0'] and lines[2][2:4] == ['50.5', '40.0']
    (series, path), = drawn
    assert path == pathlib.Path('r/t/tradeoff.png')
    assert series == {'L2': [(100., 31., pytest.approx(2 ** .5))],
                      'AFS': [(50.5, 41., pytest.approx(2 ** .5))]}
    monkeypatch.undo()
    plots.plot_points(series, tmp_path / 'x.png', xlabel='x')
    assert (tmp_path / 'x.png').read_bytes()[:4] == b'\x89PNG'


def test_runs_of_tables_without_a_number_of_epochs_are_shown(monkeypatch, tmp_path):
    rows = {'plain': row('plain')}
    write_run(tmp_path / 'r/t/plain/seed0', [30., 20., 10.])
    for epochs, shown in ((None, 1), (3, 1), (2, 0)):
        monkeypatch.setattr(catalogue, 'TABLES', {'t': table(rows, '', epochs=epochs)})
        assert len(results.logs_of('t', 'r')['plain']) == shown


def test_tables_of_fine_tuning_have_the_epochs_that_their_commands_make():
    for name in ('afds', 'office31-alexnet', 'office31-resnet50', 'office31-mobilenet',
                 'amazon10', 'amazon10-pruned', 'office31-parts', 'transfer', 'transfer-pruned',
                 'transfer-choices', 'transfer-shapes'):
        for words in tables.commands(name, 'r', 1):
            if words[0] == 'finetune.py' and '--evaluate' not in words:
                opt = finetune.parse(words[1:])
                fine_tuning.set_epochs(opt, 1)
                assert opt.epochs == catalogue.TABLES[name]['epochs'], words
