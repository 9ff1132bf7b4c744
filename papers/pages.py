"""What `tables.py report` writes: a page for each table with runs, and the README's status table.

A page is results/TABLE/README.md: the table, its plots and, between two marks, what was run, how
settings were chosen and what the numbers do not show. That text is written there by hand, and kept.
"""
import math
import re

from papers import catalogue, results
from papers.commands import command, flags_of, rows_of, split, table_of
from papers.status import NEEDS, STATUS
from system import files

# ---- the pages ----------------------------------------------------------------------------------

WRITTEN = '<!-- `python tables.py report` writes this file, but for the text between the marks -->'
MARKS = '<!-- text -->', '<!-- end of text -->'
# what a column holds
LEGEND = {
    'ours': '*ours*: {measure}, mean ± standard deviation over n seeds',
    'others': '*others*: results of other people, by name or as a range (the best of a range chose '
              'the epoch on the test images)',
    'median': '*median*: the median over the seeds, as in the paper',
    'against': '*{against}*: the difference between runs with the same seed, mean ± standard error',
    'MACs, %': '*MACs*: the multiply-adds of the pruned net',
    'MACs per image, %': '*MACs per image*: the multiply-adds that remain if channels whose gates '
                         'are zero for an image are skipped',
    'seconds per run': '*seconds per run*: the median epoch times the number of epochs; an upper '
                       'bound, as most runs shared the machine with others'}
LOGS = ('row names link to the logs; the first line of a log has the command, revision, versions, '
        'machine, precision and seed')
SHORT = ('The published numbers are for **{paper}**, ours for **{ours}**: they cannot be compared, '
         'nor does the order of the rows after {ours} say what it is after {paper}.')
CURVES = '![Learning curves of the first seed of each row](curves.png)'
TRADEOFF = '![Error against multiply-adds](tradeoff.png)'


def legend(name, logs):
    """Explain the columns of a table in Markdown, with a warning if the table has our numbers for a
    short schedule beside the paper's."""
    head, *_ = results.grid(name, logs)
    columns = {text.removesuffix(f', {results.schedule_of(name)}') for text in head}
    against, measure = table_of(name)['against'], table_of(name)['measure'].removesuffix(', %')
    if any(z[-1]['epochs'] for by_seed in logs.values() for z in by_seed.values()):
        measure += ' after the **last** epoch'
    said = [text.format(measure=measure, against=against) for column, text in LEGEND.items()
            if (against if column == 'against' else column) in columns]
    lines = [f'* {text}' for text in [*said, LOGS]]
    epochs = split(name)[1]
    if epochs and 'paper' in columns:
        ours = results.plural(epochs, 'epoch')
        lines += ['', SHORT.format(paper=results.schedule_of(name), ours=ours)]
    return '\n'.join(lines)


def between(marks, text):
    """Return the part of a text from one mark to another; both alone, if it has none."""
    found = re.search(f'(?s){marks[0]}.*{marks[1]}', text)
    return found[0] if found else '\n'.join(marks)


def page(name, root, logs):
    """Make ROOT/TABLE/README.md anew, with the text that it has between its marks."""
    path = root / name / 'README.md'
    parts = [WRITTEN, f'# {results.title(name)}', '\n'.join(results.table_lines(name, logs)),
             legend(name, logs), between(MARKS, path.read_text() if path.exists() else ''),
             CURVES if results.curves_of(name, root, logs) else '',
             TRADEOFF if table_of(name)['pruned'] else '']
    return '\n\n'.join(filter(None, parts)) + '\n'


# ---- the status ---------------------------------------------------------------------------------

def read_logs(root):
    """Read the logs in ROOT of the tables that have finished runs of their own, by name."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    found = {name: results.logs_of(name, root) for name in names
             if re.sub(r'-[1-9]\d*epochs$', '', name) in catalogue.TABLES}
    return {name: logs for name, logs in found.items()
            if any(z for row, z in logs.items() if '/' not in row)}


def length_of(name, row, logs):
    """Return how long the runs of a row were trained, or will be, in words."""
    flags = flags_of(command(name, row, 0, ''))
    if '--evaluate' in flags:
        return 'tested'
    for z in (lines[-1] for lines in logs.values()):
        if 'iterations' in z:
            return results.plural(z['epochs'] * z['steps'], 'step')
    if split(name)[1]:
        return f'{split(name)[1]} of {results.schedule_of(name)}'
    if '--iterations' in flags:
        return results.plural(int(flags['--iterations'][0]), 'step')
    return results.schedule_of(name)


def result_of(name, row, logs):
    """Return our number with its difference from the plain run, or why there is none."""
    if not logs[row]:
        table = split(name)[0]
        return 'not run' + (f': needs {NEEDS[table]}' if table in NEEDS else '')
    z, against = results.cells(name, row, logs), table_of(name)['against']
    return z['ours'] + (f' ({z[against]} {against})' if z[against] else '')


def name_shown(table, found):
    """Choose the schedule of a table to show: the paper's, if it was run, else the longest one that
    was. Returns the table's name."""
    names = [name for name in found if split(name)[0] == table]
    return max(names, key=lambda name: split(name)[1] or math.inf, default=table)


def status_row(table, of, rows, found):
    """Make a table's row {column: text} of the status; it shows the first of `rows` with runs."""
    name = name_shown(table, found)
    logs = dict.fromkeys(rows_of(name), {}) | found.get(name, {})
    row = next((k for k in rows if logs[k]), rows[0])
    r, epochs = rows_of(name)[row], split(name)[1]
    script = table_of(name)['script']
    line = f'python tables.py run {table}' + (f' --epochs {epochs}' if epochs else '')
    return {'table': of, 'row': r['label'], 'paper': r['paper'],
            'ours': result_of(name, row, logs), 'schedule': length_of(name, row, logs[row]),
            'n': str(len(logs[row]) or ''), 'logs': f'[{name}](results/{name})' * (name in found),
            'command': f'`{line}` ([{script}]({script}))'}


def status(found):
    """Make the lines of the README's status: a table for each part of STATUS."""
    lines = []
    for heading, tables in STATUS.items():
        rows = [status_row(table, *said, found) for table, said in tables.items()]
        lines += [f'**{heading}**', '', *results.markdown(*results.without_empty(rows)), '']
    return lines


# ---- what is written ----------------------------------------------------------------------------

def files_to_write(home, found):
    """Make the files that `report` writes into the repository `home`, but plots: {path: text}."""
    lines = ['<!-- status -->', *status(found), '<!-- end of status -->']
    readme = re.sub(r'(?s)<!-- status -->.*?<!-- end of status -->', lambda _: '\n'.join(lines),
                    (home / 'README.md').read_text())
    return {home / 'README.md': readme,
            **{home / 'results' / name / 'README.md': page(name, home / 'results', logs)
               for name, logs in found.items()}}


def write_all(home):
    """Write the README's status table, the tables' pages and their plots, all from the logs."""
    found = read_logs(home / 'results')
    for name, logs in found.items():
        results.write_pictures(name, home / 'results', logs)
    for path, text in files_to_write(home, found).items():
        files.write_whole(path, text.encode())
