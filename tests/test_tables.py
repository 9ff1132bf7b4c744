"""The tables' commands, which runs count as finished, and which are started next."""
import pathlib
import shlex

import pytest
from helpers import ROW_OPTIONS, finish, run_of, saves, write_run

import tables
from engine import runs
from methods import fine_tuning
from papers import catalogue, results
from papers.commands import command
from weights import store

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
    options = ROW_OPTIONS.replace('--epochs 1', '--epochs 7')
    assert lines[2] == (
        'python cifar.py --save results/u-7epochs/own/seed0 --teacher_id results/t-7epochs/teacher/'
        f"seed0 --beta 1 {options} --epoch_step '[0.3,0.6,0.8]' --seed 0")
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


# ---- the papers' tables -------------------------------------------------------------------------

@pytest.mark.parametrize('name', catalogue.TABLES)
def test_commands_of_the_papers_tables_are_understood(name):
    """Their teachers are there, and they have the epochs with which the table expects them."""
    rows = catalogue.TABLES[name]['rows']
    assert all(r['plain'] in ('', *rows) and (r['source'] or not r['paper']) for r in rows.values())
    options = {words[2]: tables.options_of(words) for words in tables.commands(name, 'r', 1)}
    for save, opt in options.items():
        # a teacher is a run of the table, but for those known by name, and files to be found
        if teacher_of(opt) not in ('', 'resnet101_places365.pth', *store.KNOWN):
            assert not teacher_of(options[teacher_of(opt)])
        if 'iterations' in opt:
            fine_tuning.set_epochs(opt, 1)
        _, *place, _ = pathlib.Path(save).parts
        tested = vars(opt).get('evaluate')
        assert results.epochs_of(*place) in (0 if tested else opt.epochs, None), save


def teacher_of(opt):
    return next(getattr(opt, k) for k in ('teacher_id', 'teacher_params', 'teacher') if k in opt)


def test_plain_students_are_their_students_nets():
    for name, t in catalogue.TABLES.items():
        for key, r in t['rows'].items():
            if r['plain'] and '--keep_head' not in r['options']:    # another stage, of another rate
                a, b = (vars(tables.options_of(command(name, k, 0, 'r')))
                        for k in (key, r['plain']))
                for k in ('model', 'arch', 'depth', 'width', 'no_bn', 'no_pool_relu', 'lr',
                          'source', 'domain', 'target', 'per_class', 'iterations'):
                    assert a.get(k) == b.get(k), (name, key, k)


# ---- finished runs ------------------------------------------------------------------------------

def test_a_run_is_known_by_its_options_and_not_by_their_text(two_tables):
    words = run_of('a', *ROW_OPTIONS.split(), '--teacher_id', 'b', '--beta', '1e+3')
    assert not tables.has_finished(words)
    finish(words)
    assert tables.has_finished(words)
    same = ['--beta=1000', '--nthread 0', '--dataroot elsewhere', '--beta_decay constant',
            '--epoch_step [60,120,160] --lr 1e-1']
    other = ['--beta 100', '--seed 1', '--dtype float', '--epochs 2', '--teacher_id c',
             '--epoch_step [1]', '--no_such_flag']
    for flags in same:
        assert tables.has_finished([*words, *flags.split()]), flags
    for flags in other:
        assert not tables.has_finished([*words, *flags.split()]), flags
    pathlib.Path('a/log.txt').write_text('json_stats: [')
    assert not tables.has_finished(words)


def test_option_that_a_log_lacks_counts_as_its_default(two_tables):
    words = run_of('a', *ROW_OPTIONS.split())
    options = vars(tables.options_of(words))
    write_run(pathlib.Path('a'), [1.], options={k: v for k, v in options.items() if k != 'at_map'})
    assert tables.has_finished(words) and not tables.has_finished([*words, '--at_map', 'max'])


def test_number_of_epochs_that_images_decide_is_that_of_the_log():
    words = ['finetune.py', '--save', 'a', '--source', 'resnet18', '--iterations', '40']
    options = vars(tables.options_of(words))
    write_run(pathlib.Path('a'), [1., 2.], options=options | dict(epochs=2, epoch_step=[2]))
    assert tables.has_finished(words)
    for flags in ('--iterations 60', '--steps_per_epoch 10', '--epochs 3'):
        assert not tables.has_finished([*words, *flags.split()]), flags


# ---- what is next -------------------------------------------------------------------------------

def folders(groups):
    return [saves(group) for group in groups]


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
    group = [run_of(folder, *ROW_OPTIONS.split()) for folder in folders]
    finish(run_of('done', *ROW_OPTIONS.split()))
    found, alone = {}, set()
    with runs.lock('locked'):
        tables.note_end(group, status, found, alone, late)
    expected = dict(zip(folders, states.split(), strict=True))
    assert found == {k: v.removesuffix('!') for k, v in expected.items()}
    assert alone == {k for k, v in expected.items() if v.endswith('!')}
