"""Tables from logs; the README's blocks."""
import json
import os
import pathlib
import re
import shlex

import pytest

import runs
import tables
import training

ROW = ('WRN-10-1', '', '--depth 10', 2)
QUICK = '--dataset shapes --epochs 1 --batch_size 64'


def write_run(folder, errors, epochs=None, seconds=2., torch='2'):
    """A log with the given test errors, one an epoch."""
    options = dict(epochs=epochs or len(errors), epoch_step=[3], dtype='float')
    lines = [options | dict(device='a processor', threads=2, torch=torch)]
    lines += [options | dict(epoch=k + 1, test_acc=100 - e, train_acc=50., train_time=seconds,
                             test_time=1.) for k, e in enumerate(errors)]
    folder.mkdir(parents=True)
    (folder / 'log.txt').write_text(''.join(f'json_stats: {json.dumps(z)}\n' for z in lines))


@pytest.fixture
def table(monkeypatch):
    """A table of two rows."""
    monkeypatch.setattr(tables, 'TABLES', {'t': dict(
        title='A table', paper='paper', common=QUICK,
        rows={'teacher': ROW, 'at': ('WRN-10-1, AT', '5.00',
                                     f'--depth 10 {tables.TEACHER} --beta 10', 2)})})


def test_commands_are_shell_lines_with_teachers_first(table, capsys):
    tables.main(['commands', 't', '--root', 'some where'])
    lines = capsys.readouterr().out.splitlines()
    words = [shlex.split(s) for s in lines]
    assert [w[w.index('--save') + 1] for w in words] == [
        f'some where/t/{row}/seed{k}' for k in (0, 1) for row in ('teacher', 'at')]
    assert words[3][words[3].index('--teacher_id') + 1] == 'some where/t/teacher/seed1'
    tables.main(['commands', 't', '--seeds', '1'])
    assert len(capsys.readouterr().out.splitlines()) == 2
    tables.TABLES['t']['rows']['at'] = (*tables.TABLES['t']['rows']['at'][:3], 1)
    assert len(list(tables.commands('t', 'results'))) == 3      # a row of one seed


def test_numbers_come_from_the_finished_runs(table, tmp_path):
    write_run(tmp_path / 'results/t/at/seed0', [30, 20, 10.])
    write_run(tmp_path / 'results/t/at/seed1', [30, 20, 12.], seconds=3.)
    write_run(tmp_path / 'results/t/at/seed2', [30, 20, 50.], epochs=9)     # not finished
    head, _, teacher, at = tables.table_lines('t', 'results')
    assert head == '| test error, % | paper | ours | n | schedule | seconds a run | machine |'
    assert teacher == '| WRN-10-1 |  |  | 0 |  |  |  |'
    assert at == ('| [WRN-10-1, AT](results/t/at) | 5.00 | 11.00 ± 1.41 | 2 | '
                  '3 epochs, drops at [3] | 10 | a processor; float, threads: 2, torch 2 |')


def test_seconds_are_robust_to_one_slow_epoch(table, tmp_path):
    write_run(tmp_path / 'results/t/at/seed0', [30, 20, 10.])
    log = tmp_path / 'results/t/at/seed0/log.txt'
    log.write_text(log.read_text().replace('"train_time": 2.0', '"train_time": 99.0', 1))
    assert '| 9 |' in tables.table_lines('t', 'results')[3]


def test_several_machines_are_in_order(table, tmp_path):
    for k in range(5):
        write_run(tmp_path / f'results/t/at/seed{k}', [1.], torch=str(9 - k))
    assert re.findall(r'torch (\d)', tables.table_lines('t', 'results')[3]) == list('56789')


def test_report_replaces_the_blocks_alone(table, tmp_path, monkeypatch):
    readme = tmp_path / 'README.md'
    readme.write_text('before\n<!-- table t -->\nold\n<!-- end of table -->\nafter\n')
    monkeypatch.setattr(tables, 'README', readme)
    write_run(tmp_path / 'results/t/teacher/seed0', [3.])
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    tables.main(['report'])
    text = readme.read_text()
    assert text.startswith('before\n<!-- table t -->\n**A table**\n') and '3.00' in text
    assert text.endswith('<!-- end of table -->\nafter\n') and 'old' not in text
    assert tables.report(text) == text
    with pytest.raises(tables.InputError, match='unknown'):
        tables.report(text.replace('table t', 'table unknown'))


def test_readme_is_up_to_date(monkeypatch):
    monkeypatch.chdir(tables.README.parent)
    text = tables.README.read_text()
    assert '<!-- table cifar10-10epochs -->' in text
    assert tables.report(text) == text, 'run: python tables.py report'


def test_logs_in_results_are_whole(monkeypatch):
    """Each number's log holds its command and its seed, and the command is the table's."""
    monkeypatch.chdir(tables.README.parent)
    commands = {name: {w[2]: w for w in tables.commands(name, 'results')}
                for name in tables.TABLES}
    logs = list(pathlib.Path('results').glob('*/*/seed*/log.txt'))
    assert logs
    for log in logs:
        first = runs.read_log(log)[0]
        words = commands[log.parts[1]][str(log.parent)]
        assert shlex.split(first['command']) == words, log
        assert log.parent.name == f'seed{first["seed"]}' and len(first['git']) == 40
        assert not first['git_dirty']


def test_run_goes_on_after_a_failure_and_shows_the_table(monkeypatch, tmp_path, capfd):
    rows = {'teacher': ('a bad row', '', '--depth 11', 1), 'good': (*ROW[:3], 1),
            'taught': ('taught by none', '', f'{tables.TEACHER} --beta 1', 1)}
    monkeypatch.setattr(tables, 'TABLES', {'t': dict(title='A table', paper='',
                                                     common=QUICK, rows=rows)})
    monkeypatch.setitem(os.environ, 'OMP_NUM_THREADS', '1')
    with pytest.raises(SystemExit) as e:
        training.run(lambda: tables.main(['run', 't', '--root', 'logs']))
    out, err = capfd.readouterr()
    assert e.value.code == 1 and err.count('6n+4') == 1
    assert 'failed: cifar.py --save logs/t/teacher/seed0' in err
    assert '(its teacher failed) cifar.py --save logs/t/taught/seed0' in err
    assert not (tmp_path / 'logs/t/taught').exists()
    assert (tmp_path / 'logs/t/curves.png').exists()
    assert re.search(r'^WRN-10-1 +\d', out, re.M) and re.search(r'^a bad row +0', out, re.M)


def test_table_must_be_named(fails):
    status, said = fails(tables.main, 'show')
    assert status == 2 and 'demo' in said
