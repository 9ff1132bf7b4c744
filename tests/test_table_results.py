"""What logs say as tables and plots, and what report writes."""
import pathlib
import re
import statistics

import pytest
from helpers import ROOT, small_table, write_run

import tables
from engine import plots, runs
from papers import catalogue, pages, results
from papers.commands import command
from papers.rows import error_of, row


def lines_of(name, root='results'):
    """The lines of a table on its page."""
    return results.table_lines(name, results.logs_of(name, root))


# ---- the numbers --------------------------------------------------------------------------------

def test_numbers_come_from_the_finished_runs(two_tables, tmp_path):
    catalogue.TABLES['t']['common'] = '--epochs 3'
    write_run(tmp_path / 'results/t/at/seed0', [30, 20, 10.])
    log = tmp_path / 'results/t/at/seed0/log.txt'       # with one slow epoch
    log.write_text(log.read_text().replace('"train_time": 2.0', '"train_time": 99.0', 1))
    write_run(tmp_path / 'results/t/at/seed1', [30, 20, 12.], seconds=3.)
    write_run(tmp_path / 'results/t/at/seed2', [30, 20, 50.], epochs=9)     # not finished
    write_run(tmp_path / 'results/t/at/seed3', [30, 20])    # of another schedule
    head, _, teacher, _, at, *_, note = lines_of('t')
    assert head == '| test error, % | paper | ours | n | seconds per run |'
    assert teacher == '| WRN-10-1 |  |  | 0 |  |'
    assert at == '| [WRN-10-1, AT](at) | 5.00 | 11.00 ± 1.41 | 2 | 10 |'
    assert note == "3 epochs, learning rate drops at epoch 3. a processor, torch 2. float, " \
                   "threads: 2. The published numbers are from a book."


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
    assert note.endswith('Rows without a finished run, not shown: 1.')
    assert len(lines_of('u')) == 6
    tables.main(['show', 'u', '--epochs', '7'])
    out = capsys.readouterr().out
    assert out.startswith('A table, in 7 epochs instead of 1\n') and 'none' not in out
    assert (tmp_path / 'results/u-7epochs/curves.png').exists()
    write_run(tmp_path / 'results/t-7epochs/student/seed0', [12.] * 7)
    head, _, none, own, *_ = lines_of('u-7epochs')
    assert '| paper, 1 epoch |' in head and '| -2.00 |' in own
    assert lines_of('u-8epochs') == ['', 'No run has finished yet.']


def test_one_row_is_shown_with_its_teachers(two_tables, tmp_path, capsys, fails):
    for name in ('teacher', 'student', 'at'):
        write_run(tmp_path / f'results/t/{name}/seed0', [10.])
    tables.main(['show', 't', '--only', 'at'])
    said = capsys.readouterr().out.splitlines()
    assert [s.split('  ')[0] for s in said[1:4]] == ['test error, %', 'WRN-10-1', 'WRN-10-1, AT']
    assert said[4].startswith('1 epoch') and (tmp_path / 'results/t/curves.png').exists()
    status, said = fails(tables.main, 'show', 't', '--only', 'nothing')
    assert status == 2 and 'no row nothing; its rows are teacher, student, at' in said
    assert fails(tables.main, 'show', 't', '--seeds', '1')[0] == 2
    tables.main(['show', 'u', '--epochs', '8'])


def test_several_machines_are_counted_in_order(two_tables, tmp_path):
    for k, version in enumerate('98898'):
        write_run(tmp_path / f'results/t/at/seed{k}', [1.], torch=version)
    assert ('. a processor, torch 8 (3 of 5 runs); a processor, torch 9 (2 of 5 runs). float, '
            in lines_of('t')[-1])


def test_runs_of_tables_without_a_number_of_epochs_are_shown(monkeypatch, tmp_path):
    rows = {'plain': row('plain')}
    write_run(tmp_path / 'r/t/plain/seed0', [30., 20., 10.])
    for epochs, shown in ((None, 1), (3, 1), (2, 0)):
        monkeypatch.setattr(catalogue, 'TABLES', {'t': small_table(rows, '', epochs=epochs)})
        assert len(results.logs_of('t', 'r')['plain']) == shown


def test_error_against_multiply_adds(monkeypatch, tmp_path, capsys):
    rows = {'l2': row('L2, 1x', seeds=2), 'magnitude_2x': row('magnitude, 2x'),
            'afs_2x': row('AFS, 2x', seeds=2), 'afs_4x': row('AFS, 4x')}
    monkeypatch.setattr(catalogue, 'TABLES', {'t': small_table(rows, epochs=1, pruned=True)})
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


# ---- the pages ----------------------------------------------------------------------------------

@pytest.fixture
def home(two_tables, tmp_path, monkeypatch):
    """A repository with the two tables, runs of `t` and of `u` in 7 epochs, and a README."""
    monkeypatch.setattr(tables, 'HOME', tmp_path)
    monkeypatch.setattr(pages, 'STATUS', {'Tables': {'t': ('table 1', ['at', 'teacher']),
                                                     'u': ('table 2', ['own'])}})
    monkeypatch.setattr(pages, 'NEEDS', {'u': 'time'})
    (tmp_path / 'README.md').write_text('before\n<!-- status -->\nold\n<!-- end of status -->\n'
                                        'after\n')
    write_run(tmp_path / 'results/t/teacher/seed0', [3.])
    write_run(tmp_path / 'results/u-7epochs/own/seed0', [10.] * 7)
    (tmp_path / 'results/u-7epochs/README.md').write_text(
        'old\n<!-- text -->\nA caveat.\n<!-- end of text -->\nold\n')
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
    assert '\n# A table, in 7 epochs instead of 1\n' in page
    assert '\n<!-- text -->\nA caveat.\n<!-- end of text -->\n\n![' in page
    assert '[own](own)' in page and '[none](../t-7epochs/student)' in page
    assert pages.files_to_write(home, pages.read_logs(home / 'results')) == {
        home / 'README.md': text,
        **{home / k / 'README.md': (home / k / 'README.md').read_text() for k in found}}


def test_page_says_how_its_columns_are_read(home):
    found = pages.read_logs(home / 'results')
    page = pages.page('u-7epochs', home / 'results', found['u-7epochs'])
    assert '\n* *ours*: test error after the **last** epoch, mean ±' in page
    assert '\n* *vs. the plain student*: ' in page
    assert 'numbers are for **1 epoch**, ours for **7 epochs**' in page and 'MACs' not in page
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


def test_tables_are_described_and_have_a_status_or_are_grids_of_choices():
    described = (ROOT / 'docs/experiments.md').read_text()
    assert not [name for name in catalogue.TABLES if f'`{name}`' not in described]
    status = [name for part in pages.STATUS.values() for name in part]
    assert set(status) == {name for name in catalogue.TABLES if 'choices' not in name}
    assert set(pages.NEEDS) <= set(status)
    for name, (_, rows) in (pair for part in pages.STATUS.values() for pair in part.items()):
        assert set(rows) <= set(catalogue.TABLES[name]['rows'])


def test_report_is_up_to_date():
    """README.md and the pages in results/ are what report would write, and there are no others."""
    found = pages.read_logs(ROOT / 'results')
    for path, text in pages.files_to_write(ROOT, found).items():
        assert path.read_text() == text, 'run: python tables.py report'
        assert '<!-- text -->\n<!-- end' not in text, f'{path} says nothing of its numbers'
    assert {path.parent.name for path in ROOT.glob('results/*/README.md')} == set(found)
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
