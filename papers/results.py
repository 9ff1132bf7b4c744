"""The results of the tables' runs, from their logs, as tables and pictures.

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt: the test error after the
last epoch, mean ± standard deviation over seeds (and the median, if that is what the paper has),
and its difference from the plain student's, mean ± standard error over the seeds that both have.
Seconds per run are those of the median epoch times the number of epochs.
"""
import collections
import os
import pathlib
import re
import statistics

from engine import plots, runs
from papers import commands

DECAYS = {'inv': 'inverse decay of the learning rate',
          'exp': 'exponential decay of the learning rate'}

# ---- the numbers --------------------------------------------------------------------------------

def is_finished(lines):
    """Return whether a log ends with the last epoch of its run."""
    return len(lines) > 1 and lines[-1]['epoch'] == lines[-1]['epochs']


def finished_runs(folder):
    """Read the logs of the finished runs in a row's folder, {seed: lines}."""
    logs = {int(path.parent.name[4:]): runs.read_log(path)
            for path in folder.glob('seed*/log.txt') if path.parent.name[4:].isdecimal()}
    return {seed: logs[seed] for seed in sorted(logs) if is_finished(logs[seed])}


def epochs_of(name, row):
    """Return the epochs of a row's runs: 0 if they only test, None if the data decide."""
    flags = commands.flags_of(commands.command(name, row, 0, ''))
    if '--evaluate' in flags:
        return 0
    return int(flags['--epochs'][0]) if '--epochs' in flags else commands.table_of(name)['epochs']


def logs_of(name, root):
    """Read the logs of a table's finished runs, {row: {seed: lines}}. Runs of another schedule are
    left out, unless the number of epochs depends on the data set; in a short schedule, which is
    seldom run for a whole table, so are rows without runs."""
    found = {}
    for row in commands.rows_of(name):
        wanted = epochs_of(name, row)
        logs = finished_runs(pathlib.Path(root, *commands.owner(name, row)))
        found[row] = {seed: z for seed, z in logs.items() if wanted in (None, z[-1]['epochs'])}
    return {row: z for row, z in found.items() if z or not commands.split(name)[1]}


def errors_of(logs, value='test_acc'):
    """Return each run's error after its last epoch in percent, {seed: error}; `value` is the name
    of the accuracy in the log."""
    return {seed: 100 - z[-1][value] for seed, z in logs.items()}


def mean_and_spread(values, sign='', divisor=1):
    """Format values as mean ± standard deviation / divisor; a single value has no ±."""
    text = f'{statistics.mean(values):{sign}.2f}'
    return text + (f' ± {statistics.stdev(values) / divisor:.2f}' if len(values) > 1 else '')


def difference(errors, plain):
    """Format the difference of a row's errors from the plain student's, both {seed: error}, over
    the seeds that both have. It states their number, if the row has more."""
    common = [error - plain[seed] for seed, error in errors.items() if seed in plain]
    if not common:
        return ''
    text = mean_and_spread(common, '+', len(common) ** .5)
    return text + (f' (n = {len(common)})' if len(common) < len(errors) else '')


def seconds_per_run(logs):
    """Return the seconds of a run, the mean over runs: number of epochs times the median epoch."""
    return statistics.mean(len(z[1:]) * statistics.median(e['train_time'] + e['test_time']
                                                          for e in z[1:]) for z in logs)


def macs_kept(logs, what='multiply_adds'):
    """Return the part of the multiply-adds that is left after pruning, the mean over a row's runs;
    1 without pruning. `what` is the name of their number in the log."""
    return statistics.mean(z[-1].get(what, 1) / z[-1].get('multiply_adds_before', 1)
                           for z in logs.values())


# ---- a table ------------------------------------------------------------------------------------

def plural(number, noun):
    """Return a number with its noun: 1 epoch, 2 epochs."""
    return f'{number:,} {noun}' + 's' * (number != 1)


def schedule_of(name):
    """Return a table's schedule, in words: the paper's, where it gives one."""
    epochs = commands.table_of(name)['epochs']
    return '9,000 steps' if epochs is None else plural(epochs, 'epoch')


def title(name):
    """Return the heading of a table; it mentions a short schedule."""
    table, epochs = commands.table_of(name), commands.split(name)[1]
    if not epochs:
        return table['title']
    usual = 'the published number' if table['epochs'] is None else table['epochs']
    return f'{table["title"]}, in {plural(epochs, "epoch")} instead of {usual}'


def cells(name, row, logs):
    """Format a row of a table as {column: text}."""
    table, short = commands.table_of(name), commands.split(name)[1]
    r = table['rows'][row]
    of_paper = f', {schedule_of(name)}' * bool(short)
    z = {table['measure']: r['label'], f'paper{of_paper}': r['paper'],
         f'others{of_paper}': r['others'], 'ours': '', 'median': '', table['against']: '',
         'MACs, %': '', 'MACs per image, %': '', 'n': str(len(logs[row])), 'seconds per run': ''}
    if logs[row]:
        errors, plain = (errors_of(v, table['value'])
                         for v in (logs[row], logs.get(r['plain'], {})))
        tops = [errors, errors_of(logs[row], 'test_acc5')] if table['top5'] else [errors]
        z |= {'ours': ', '.join(mean_and_spread(v.values()) for v in tops),
              table['against']: difference(errors, plain),
              'seconds per run': f'{seconds_per_run(logs[row].values()):.0f}'}
        if table['pruned']:
            z |= {'MACs, %': f'{100 * macs_kept(logs[row]):.1f}',
                  'MACs per image, %': f'{100 * macs_kept(logs[row], "multiply_adds_dynamic"):.1f}'}
        if table['medians'] and not short:
            z['median'] = f'{statistics.median(errors.values()):.2f}'
    return z


def without_empty(rows):
    """Turn rows {column: text} into lists, the head first, and drop empty columns."""
    columns = [k for k in (rows[0] if rows else []) if any(z[k] for z in rows)]
    return [columns, *([z[k] for k in columns] for z in rows)]


def grid(name, logs, only=''):
    """Format a table, or a row and its teachers alone, as lists of texts, the head first."""
    places = set(commands.with_teachers(name, only)) if only else set()
    return without_empty([cells(name, row, logs) for row in logs
                          if not only or commands.owner(name, row) in places])


def drops(epochs):
    """Say at which epochs the learning rate drops: [3, 6, 6] -> '... at epochs 3, 6 (twice)'."""
    times = {1: '', 2: ' (twice)'}
    at = [f'{k}{times.get(n, f" ({n} times)")}' for k, n in collections.Counter(epochs).items()]
    return f'learning rate drops at epoch{"s" * (len(at) > 1)} {", ".join(at)}' if at else \
        'constant learning rate'


def schedule_run(z):
    """Describe the schedule of a run from the last line of its log."""
    if not z['epochs']:
        return 'Tested, not trained'
    epochs = plural(z['epochs'], 'epoch')
    rate = drops([e for e in z['epoch_step'] if e <= z['epochs']])
    if 'iterations' not in z:
        return f'{epochs}, {rate}'
    decay = DECAYS.get(z['schedule'], rate)
    return f'{epochs} of {plural(z["steps"], "step")}, {decay}'


def threads(z):
    """Say how many threads the epochs of a log used: '2', or '1 to 2'."""
    numbers = sorted({e['threads'] for e in z[1:]})
    return ' to '.join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))


def caption(name, logs):
    """Describe the runs of a table: schedule, machine, precision; how many, where these differ."""
    lines = [z for by_seed in logs.values() for z in by_seed.values()]
    if not lines:
        return 'No run has finished yet.'
    texts = [(schedule_run(z[-1]),
              f'{z[0]["device"]}, torch {z[0]["torch"]}',
              f'{z[0]["dtype"]}, threads: {threads(z)}') for z in lines]
    counts = [collections.Counter(column) for column in zip(*texts, strict=True)]
    said = ['; '.join(f'{k} ({n[k]} of {len(lines)} runs)' if len(n) > 1 else k for k in sorted(n))
            for n in counts]
    rows = [commands.rows_of(name)[row] for row in logs]
    if sources := {r['source'] for r in rows if r['paper'] and r['source']}:
        said.append(f"The published numbers are from {' and '.join(sorted(sources))}")
    if missing := len(commands.rows_of(name)) - len(logs):
        said.append(f'Rows without a finished run, not shown: {missing}')
    return '. '.join(said) + '.'


def markdown(head, *rows):
    """Make the lines of a Markdown table."""
    return [f'| {" | ".join(texts)} |' for texts in (head, ['---'] * len(head), *rows)]


def table_lines(name, logs):
    """Make the lines of a page's table, whose rows link to their folders, and of its caption."""
    head, *rows = grid(name, logs)
    for row, texts in zip(logs, rows, strict=True):
        if logs[row]:
            folder = os.path.relpath('/'.join(commands.owner(name, row)), name)
            texts[0] = f'[{texts[0]}]({pathlib.Path(folder).as_posix()})'
    return [*(markdown(head, *rows) if rows else []), '', caption(name, logs)]


# ---- pictures -----------------------------------------------------------------------------------

def curves_of(name, root, logs):
    """Return the logs of the first seeds of the rows that were trained, {label: path}."""
    return {commands.rows_of(name)[row]['label']:
            pathlib.Path(commands.folder_of(name, row, min(z), root), 'log.txt')
            for row, z in logs.items() if z and z[min(z)][-1]['epochs']}


def write_tradeoff(name, root, logs):
    """Plot error against multiply-adds as ROOT/TABLE/tradeoff.png: a curve for each method of
    pruning, which is a row's label without its factor (', 2x'). If there are factors, rows without
    one are left out."""
    labels = {row: commands.rows_of(name)[row]['label'] for row, z in logs.items() if z}
    methods = {row: re.sub(r', \d+x$', '', label) for row, label in labels.items()}
    lines = collections.defaultdict(list)
    for row in [k for k in labels if methods[k] != labels[k]] or labels:
        errors = list(errors_of(logs[row]).values())
        spread = statistics.stdev(errors) if len(errors) > 1 else 0
        lines[methods[row]].append((100 * macs_kept(logs[row]), statistics.mean(errors), spread))
    if lines:
        path = pathlib.Path(root, name, 'tradeoff.png')
        plots.plot_points(lines, path, xlabel='multiply-adds, % of the net', ylabel='test error, %')
        print(f'error against multiply-adds: {path}')


def write_pictures(name, root, logs):
    """Plot the learning curves of a table's first seeds as ROOT/TABLE/curves.png, if there are any,
    and, with pruning, error against multiply-adds."""
    if curves := curves_of(name, root, logs):
        path = pathlib.Path(root, name, 'curves.png')
        plots.plot_curves(curves, path)
        print(f'curves: {path}')
    if commands.table_of(name)['pruned']:
        write_tradeoff(name, root, logs)


def print_table(name, root, only=''):
    """Print a table, or its row `only` and that row's teachers, with aligned columns, and write the
    plots of the whole table. InputError, if it has no such row."""
    commands.check_row(name, only)
    logs = logs_of(name, root)
    rows = grid(name, logs, only)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title(name))
    for texts in rows:
        print('  '.join(c.ljust(w) for c, w in zip(texts, widths, strict=True)).rstrip())
    print(caption(name, logs))
    write_pictures(name, root, logs)
