"""What the logs of the tables' runs say, as tables and pictures.

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt: the last epoch's test
error, mean ± standard deviation over seeds (and the median, where the paper has that), and its
difference from the plain student's, mean ± standard error over the seeds that both have. Seconds
are those of the median epoch times the number of epochs.
"""
import collections
import os
import pathlib
import statistics

from engine import plots, runs
from papers.commands import (
    command,
    flags_of,
    folder_of,
    owner,
    plural,
    rows_of,
    schedule_of,
    split,
    table_of,
    title,
)

AGAINST = 'vs. the plain student'     # heading of a difference, where a table names no other
DECAYS = {'inv': 'inverse decay of the learning rate',
          'exp': 'exponential decay of the learning rate'}

# ---- the numbers --------------------------------------------------------------------------------

def is_finished(lines):
    """Whether a log ends with the last epoch of its run."""
    return len(lines) > 1 and lines[-1]['epoch'] == lines[-1]['epochs']


def finished_runs(folder):
    """Read the logs of the finished runs below a row's folder, by seed."""
    logs = {int(path.parent.name[4:]): runs.read_log(path)
            for path in folder.glob('seed*/log.txt') if path.parent.name[4:].isdecimal()}
    return {seed: logs[seed] for seed in sorted(logs) if is_finished(logs[seed])}


def epochs_of(name, row):
    """Return the number of epochs that a row's runs have: 0 of tests, None if it depends on the
    data."""
    flags = flags_of(command(name, row, 0, ''))
    if '--evaluate' in flags:
        return 0
    return int(flags['--epochs'][0]) if '--epochs' in flags else table_of(name)['epochs']


def logs_of(name, root):
    """Read the logs of a table that are finished, and of its schedule (of any, where it depends on
    the data set how many epochs it has), {row: {seed: lines}}; in a short schedule, in which the
    whole of a table is seldom run, only of the rows that have any."""
    found = {}
    for row in rows_of(name):
        wanted = epochs_of(name, row)
        logs = finished_runs(pathlib.Path(root, *owner(name, row)))
        found[row] = {seed: z for seed, z in logs.items() if wanted in (None, z[-1]['epochs'])}
    return {row: z for row, z in found.items() if z or not split(name)[1]}


def errors_of(logs, value='test_acc'):
    """Return the last error of each run in percent, {seed: error}, from the accuracy `value`."""
    return {seed: 100 - z[-1][value] for seed, z in logs.items()}


def mean_and_spread(values, sign='', divisor=1):
    """Format the mean of values ± their standard deviation, divided by `divisor`, if there are
    two."""
    text = f'{statistics.mean(values):{sign}.2f}'
    return text + (f' ± {statistics.stdev(values) / divisor:.2f}' if len(values) > 1 else '')


def difference(errors, plain):
    """Format the difference of a row's errors from the plain student's, both {seed: error}, over
    the seeds that both have, whose number is given if it is not the row's."""
    common = [error - plain[seed] for seed, error in errors.items() if seed in plain]
    text = mean_and_spread(common, '+', len(common) ** .5) if common else ''
    return text + (f' (n = {len(common)})' if 0 < len(common) < len(errors) else '')


def seconds_per_run(logs):
    """Return the mean over runs of their number of epochs times the median seconds of an epoch."""
    return statistics.mean(len(z[1:]) * statistics.median(e['train_time'] + e['test_time']
                                                          for e in z[1:]) for z in logs)


def macs_kept(logs, what='multiply_adds'):
    """Return the part of the multiply-adds that pruning has kept, the mean over a row's runs; 1
    where nothing was pruned. `what` is another number of the log."""
    return statistics.mean(z[-1].get(what, 1) / z[-1].get('multiply_adds_before', 1)
                           for z in logs.values())


# ---- a table ------------------------------------------------------------------------------------

def cells(name, row, logs):
    """Format a row of a table as {column: text}."""
    table, short = table_of(name), split(name)[1]
    r = table['rows'][row]
    of_paper = f', {schedule_of(name)}' * bool(short)
    against = table.get('against', AGAINST)
    z = {table.get('measure', 'test error, %'): r['label'], f'paper{of_paper}': r['paper'],
         f'others{of_paper}': r['others'], 'ours': '', 'median': '', against: '', 'MACs, %': '',
         'MACs per image, %': '', 'n': str(len(logs[row])), 'seconds per run': ''}
    if logs[row]:
        value = table.get('value', 'test_acc')
        errors, plain = (errors_of(v, value) for v in (logs[row], logs.get(r['plain'], {})))
        top5 = [100 - z[-1]['test_acc5'] for z in logs[row].values()] if table.get('top5') else []
        z |= {'ours': ', '.join(mean_and_spread(v) for v in (list(errors.values()), top5) if v),
              against: difference(errors, plain),
              'seconds per run': f'{seconds_per_run(logs[row].values()):.0f}'}
        if table.get('pruned'):
            z |= {'MACs, %': f'{100 * macs_kept(logs[row]):.1f}',
                  'MACs per image, %': f'{100 * macs_kept(logs[row], "multiply_adds_dynamic"):.1f}'}
        if table['medians'] and not short:
            z['median'] = f'{statistics.median(errors.values()):.2f}'
    return z


def without_empty(rows):
    """Turn rows {column: text} into lists, the head first, without the columns that are empty."""
    columns = [k for k in (rows[0] if rows else []) if any(z[k] for z in rows)]
    return [columns, *([z[k] for k in columns] for z in rows)]


def grid(name, logs):
    """Format a table as lists of texts, the head first."""
    return without_empty([cells(name, row, logs) for row in logs])


def drops(epochs):
    """Say where the learning rate drops: [3, 6, 6] -> '... at epochs 3, 6 (twice)'."""
    times = {1: '', 2: ' (twice)'}
    at = [f'{k}{times.get(n, f" ({n} times)")}' for k, n in collections.Counter(epochs).items()]
    return f'learning rate drops at epoch{"s" * (len(at) > 1)} {", ".join(at)}' if at else \
        'constant learning rate'


def schedule_run(z):
    """Say what the schedule of a run was, by the last line of its log."""
    if not z['epochs']:
        return 'Tested, not trained'
    epochs = plural(z['epochs'], 'epoch')
    rate = drops([e for e in z['epoch_step'] if e <= z['epochs']])
    if 'iterations' not in z:
        return f'{epochs}, {rate}'
    decay = DECAYS.get(z['schedule'], rate)
    return f'{epochs} of {plural(z["steps"], "step")}, {decay}'


def threads(z):
    """Say with how many threads most steps of the epochs of a log were computed."""
    numbers = sorted({e.get('threads', z[0]['threads']) for e in z[1:]})
    return ' to '.join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))


def caption(name, logs):
    """Say what the rows share: schedules, machines, precisions; with numbers of runs where they
    differ."""
    lines = [z for by_seed in logs.values() for z in by_seed.values()]
    if not lines:
        return 'No run is finished yet.'
    texts = [(schedule_run(z[-1]),
              f'{z[0]["device"]}, torch {z[0]["torch"]}',
              f'{z[0]["dtype"]}, threads: {threads(z)}') for z in lines]
    counts = [collections.Counter(column) for column in zip(*texts, strict=True)]
    said = ['; '.join(f'{k} ({n[k]} of {len(lines)} runs)' if len(n) > 1 else k for k in sorted(n))
            for n in counts]
    rows = [rows_of(name)[row] for row in logs]
    sources = {r['source'] for r in rows if r['paper'] and r['source']}
    if sources:
        said.append(f"The paper's numbers were checked against {' and '.join(sorted(sources))}")
    missing = len(rows_of(name)) - len(logs)
    if missing:
        said.append(f'Rows without a finished run, which are not shown: {missing}')
    return '. '.join(said) + '.'


def markdown(head, *rows):
    """Make the lines of a Markdown table."""
    return [f'| {" | ".join(texts)} |' for texts in (head, ['---'] * len(head), *rows)]


def table_lines(name, logs):
    """Make the lines of a page's table, whose rows link to their folders, and its caption."""
    head, *rows = grid(name, logs)
    for row, texts in zip(logs, rows, strict=True):
        if logs[row]:
            folder = os.path.relpath('/'.join(owner(name, row)), name)
            texts[0] = f'[{texts[0]}]({pathlib.Path(folder).as_posix()})'
    return [*(markdown(head, *rows) if rows else []), '', caption(name, logs)]


# ---- pictures -----------------------------------------------------------------------------------

def curves_of(name, root, logs):
    """Return {label: the log of the first seed} of the rows that were trained."""
    return {rows_of(name)[row]['label']:
            pathlib.Path(folder_of(name, row, min(z), root), 'log.txt')
            for row, z in logs.items() if z and z[min(z)][-1]['epochs']}


def write_curves(name, root, logs):
    """Draw the first seeds' learning curves as ROOT/TABLE/curves.png, if there are any."""
    if curves := curves_of(name, root, logs):
        path = pathlib.Path(root, name, 'curves.png')
        plots.plot_curves(curves, path)
        print(f'curves: {path}')


def write_tradeoff(name, root, logs):
    """Draw error against multiply-adds, of a table of pruning, as ROOT/TABLE/tradeoff.png: a curve
    for each method, which is what a row's label says before its comma."""
    lines = collections.defaultdict(list)
    for row, z in logs.items():
        if z:
            errors = list(errors_of(z).values())
            spread = statistics.stdev(errors) if len(errors) > 1 else 0
            method = rows_of(name)[row]['label'].partition(',')[0]
            lines[method].append((100 * macs_kept(z), statistics.mean(errors), spread))
    if lines:
        path = pathlib.Path(root, name, 'tradeoff.png')
        plots.plot_points(lines, path, xlabel='multiply-adds, % of the net', ylabel='test error, %')
        print(f'error against multiply-adds: {path}')


def write_pictures(name, root, logs):
    """Draw the pictures of a table."""
    write_curves(name, root, logs)
    if table_of(name).get('pruned'):
        write_tradeoff(name, root, logs)


def show(name, root):
    """Print a table with aligned columns; draw its learning curves."""
    logs = logs_of(name, root)
    rows = grid(name, logs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title(name))
    for texts in rows:
        print('  '.join(c.ljust(w) for c, w in zip(texts, widths, strict=True)).rstrip())
    print(caption(name, logs))
    write_pictures(name, root, logs)
