"""What `tables.py report` writes: a page for each table that has runs, the README's status table.

A page is results/TABLE/README.md: the table, its pictures, and what papers/texts.py says of it.
"""
import math
import re

from papers import catalogue
from papers.commands import command, flags_of, plural, rows_of, schedule_of, split, table_of, title
from papers.results import (
    AGAINST,
    cells,
    curves_of,
    grid,
    logs_of,
    markdown,
    table_lines,
    without_empty,
    write_pictures,
)
from papers.texts import STATUS, TEXTS
from system import files

# ---- the pages ----------------------------------------------------------------------------------

WRITTEN = '<!-- `python tables.py report` writes this file; its text is in papers/texts.py -->'
# How a column is to be read.
LEGEND = {
    'ours': '*ours*: {measure}, mean ± standard deviation over n seeds',
    'others': "*others*: what other people's runs gave, by name, or the range of them (whose best "
              'ends chose the epoch on the test images)',
    'median': '*median*: the median over the seeds, as in the paper',
    'against': '*{against}*: the difference between runs with the same seed, mean ± standard error',
    'MACs, %': '*MACs*: the multiply-adds of the pruned net',
    'MACs per image, %': '*MACs per image*: the multiply-adds that its gates leave',
    'seconds per run': '*seconds per run*: the median epoch times the number of epochs'}
LOGS = ('each row links to its logs; the first line of a log has the command, revision, versions, '
        'machine, precision and seed')
SHORT = ("The paper's numbers are for **{paper}**, ours for **{ours}**: do not compare the two "
         'columns; what can be compared is the order of our rows.')


def measure_of(name, logs):
    """Say what is tabulated, in words."""
    measure = table_of(name).get('measure', 'test error, %').removesuffix(', %')
    trained = any(z[-1]['epochs'] for by_seed in logs.values() for z in by_seed.values())
    return measure + ' after the **last** epoch' * trained


def legend(name, logs):
    """Say how the columns of a table are to be read, as a Markdown list."""
    head, *_ = grid(name, logs)
    columns = {text.removesuffix(f', {schedule_of(name)}') for text in head}
    against = table_of(name).get('against', AGAINST)
    words = dict(measure=measure_of(name, logs), against=against)
    said = [text.format(**words) for column, text in LEGEND.items()
            if (against if column == 'against' else column) in columns]
    return '\n'.join(f'* {text}' for text in [*said, LOGS])


def warning(name, logs):
    """Return the warning of a table in a short schedule that has the paper's numbers, too; '' for
    others."""
    epochs, paper = split(name)[1], any(text.startswith('paper') for text in grid(name, logs)[0])
    return SHORT.format(paper=schedule_of(name), ours=epochs) if epochs and paper else ''


def pictures(name, root, logs):
    """Return the links to a table's pictures, as a list."""
    curves = '![Learning curves of the first seed of each row](curves.png)'
    tradeoff = '![Error against multiply-adds](tradeoff.png)'
    pruned = table_of(name).get('pruned')
    return [curves] * bool(curves_of(name, root, logs)) + [tradeoff] * bool(pruned)


def page(name, root, logs):
    """Make the text of ROOT/TABLE/README.md."""
    parts = [WRITTEN, f'# {title(name)}', '\n'.join(table_lines(name, logs)), legend(name, logs),
             warning(name, logs), TEXTS.get(name, '').strip(), *pictures(name, root, logs)]
    return '\n\n'.join(filter(None, parts)) + '\n'


# ---- the status ---------------------------------------------------------------------------------

def has_runs(logs):
    """Whether a table has finished runs that are no other table's."""
    return any(z for row, z in logs.items() if '/' not in row)


def read_logs(root):
    """Read the logs of the tables that have finished runs of their own below ROOT, by name."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    found = {name: logs_of(name, root) for name in names
             if re.sub(r'-[1-9]\d*epochs$', '', name) in catalogue.TABLES}
    return {name: logs for name, logs in found.items() if has_runs(logs)}


def length_of(name, row, logs):
    """Say how long the runs of a row were trained, or are to be."""
    flags = flags_of(command(name, row, 0, ''))
    if '--evaluate' in flags:
        return 'tested'
    for z in (lines[-1] for lines in logs.values()):
        if 'iterations' in z:
            return plural(z['epochs'] * z['steps'], 'step')
    if split(name)[1]:
        return f'{split(name)[1]} of {schedule_of(name)}'
    if '--iterations' in flags:
        return plural(int(flags['--iterations'][0]), 'step')
    return schedule_of(name)


def result_of(name, row, logs, wants):
    """Return our number with its difference from the plain run, or say why there is none."""
    z, against = cells(name, row, logs), table_of(name).get('against', AGAINST)
    if not logs[row]:
        return f'not run: {wants}'
    return z['ours'] + (f' ({z[against]} {against})' if z[against] else '')


def name_shown(table, found):
    """Choose the name of a table in the paper's schedule, if that was run, else in the longest one
    that was."""
    names = [name for name in found if split(name)[0] == table]
    return max(names, key=lambda name: split(name)[1] or math.inf, default=table)


def status_row(table, of, rows, wants, found):
    """Make the row {column: text} of a table in the status table; `rows` are those that it may
    show, the first that has runs; `wants` is why it has none."""
    name = name_shown(table, found)
    logs = dict.fromkeys(rows_of(name), {}) | found.get(name, {})
    row = next((k for k in rows if logs[k]), rows[0])
    r, epochs = rows_of(name)[row], split(name)[1]
    script = catalogue.TABLES[table].get('script', 'cifar.py')
    line = f'python tables.py run {table}' + (f' --epochs {epochs}' if epochs else '')
    return {'table': of, 'row': r['label'], 'paper': r['paper'],
            'ours': result_of(name, row, logs, wants), 'schedule': length_of(name, row, logs[row]),
            'n': str(len(logs[row]) or ''), 'logs': f'[{name}](results/{name})' * (name in found),
            'command': f'`{line}` ([{script}]({script}))'}


def status(found):
    """Make the lines of the status table: a table for each part of STATUS."""
    lines = []
    for heading, tables in STATUS.items():
        rows = [status_row(table, *said, found) for table, said in tables.items()]
        lines += [f'**{heading}**', '', *markdown(*without_empty(rows)), '']
    return lines


# ---- what is written ----------------------------------------------------------------------------

def texts(home, found):
    """Make the files that `report` writes into the repository `home`, {path: text}."""
    lines = ['<!-- status -->', *status(found), '<!-- end of status -->']
    readme = re.sub(r'(?s)<!-- status -->.*?<!-- end of status -->', lambda _: '\n'.join(lines),
                    (home / 'README.md').read_text())
    return {home / 'README.md': readme,
            **{home / 'results' / name / 'README.md': page(name, home / 'results', logs)
               for name, logs in found.items()}}


def write(home):
    """Write the README's status table, the tables' pages and their pictures, from the logs
    alone."""
    found = read_logs(home / 'results')
    for name, logs in found.items():
        write_pictures(name, home / 'results', logs)
    for path, text in texts(home, found).items():
        files.write(path, text.encode())
