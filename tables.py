"""The tables of the papers (papers.py): their commands, and the numbers that the logs hold.

    python tables.py commands TABLE ... the shell lines, teachers first
    python tables.py run TABLE ...      run what is not finished, then show
    python tables.py show TABLE ...     the table, and its learning curves as curves.png (of removal
                                        of channels, error against multiply-adds as tradeoff.png)
    python tables.py report             the same into the README, from the logs alone

With --epochs N a table is run in a schedule of N epochs, into a folder of its own, TABLE-Nepochs.
With --at_once K up to K runs are trained together: on a GPU by one process, in which the runs of a
command line stand side by side with a + between; on a CPU by K processes of one thread each.
Several `run`s side by side share the work: each run is done by one of them.

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt: the last epoch's test
error, mean ± standard deviation over seeds (and the median, where the paper has that), and its
difference to the plain student's, mean ± standard error over the seeds that both have. Seconds are
those of the median epoch times the epochs.
"""
import collections
import contextlib
import itertools
import math
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time

import torch

from engine import plots, runs, script
from papers.catalogue import TABLES
from utils import InputError

README = pathlib.Path(__file__).with_name('README.md')
WAIT = 5            # seconds until `run` looks again at what other processes are running
PATIENCE = 10       # seconds in which a process that Ctrl-C has reached ends by itself
SHORT_SEEDS = 3     # at most, in a short schedule


# ---- the tables ---------------------------------------------------------------------------------

def split(name):
    """'cifar10-10epochs' -> 'cifar10', 10; 'cifar10' -> 'cifar10', None."""
    table, epochs = re.fullmatch(r'(.+?)(?:-([1-9]\d*)epochs)?', name, re.S).groups()
    if table not in TABLES:
        raise InputError(f'there is no table {name}; name one of {", ".join(TABLES)}')
    return table, epochs and int(epochs)


def rows_of(name):
    return TABLES[split(name)[0]]['rows']


def home(name, row):
    """The table, in the schedule of the table `name`, and the row that `row` stands for there."""
    if '/' not in row:
        return name, row
    table, row = row.split('/')
    epochs = split(name)[1]
    return (f'{table}-{epochs}epochs' if epochs else table), row


def title(name):
    table, epochs = split(name)
    table = TABLES[table]
    return table['title'] + (f', in {epochs} epochs instead of {table["epochs"]}' if epochs else '')


# ---- the commands -------------------------------------------------------------------------------

def folder_of(name, row, seed, root):
    return str(pathlib.Path(root, *home(name, row), f'seed{seed}'))


def command(name, row, seed, root):
    """The command line of a run, as a list of words."""
    save = folder_of(name, row, seed, root)
    name, row = home(name, row)
    table, epochs = split(name)
    table = TABLES[table]
    short = f"--epochs {epochs} --epoch_step '[0.3,0.6,0.8]'" if epochs else ''
    own = shlex.split(table['rows'][row]['options'])
    options = [*own, *without(shlex.split(table['common']), own), *shlex.split(short)]
    return [table.get('script', 'cifar.py'), '--save', save,
            *(folder_of(name, word[1:], seed, root) if word.startswith('@') else word
              for word in options), '--seed', str(seed)]


def without(words, own):
    """The words of a command line without the flags, and their values, that are in `own`."""
    kept, skip = [], False
    for word in words:
        skip = word in own if word.startswith('--') else skip
        kept += [] if skip else [word]
    return kept


def with_teachers(name, row):
    """A row behind the rows that its options name, as (table, row)."""
    name, row = home(name, row)
    for teacher in re.findall(r'@(\S+)', rows_of(name)[row]['options']):
        yield from with_teachers(name, teacher)
    yield name, row


def commands(name, root, seeds=None, only=''):
    """The command line of each run of a table, or of one row, with the teachers that it needs, as
    lists of words: seed by seed, teachers first."""
    rows, short, known = rows_of(name), split(name)[1], set()
    if only and only not in rows:
        raise InputError(f'{name} has no row {only}; its rows are {", ".join(rows)}')
    numbers = {k: seeds or min(r['seeds'], SHORT_SEEDS if short else r['seeds'])
               for k, r in rows.items() if only in ('', k)}
    for seed in range(max(numbers.values())):
        for wanted in (k for k, n in numbers.items() if seed < n):
            for place in with_teachers(name, wanted):
                if (place, seed) not in known:
                    known.add((place, seed))
                    yield command(*place, seed, root)


def all_commands(names, *rest):
    """Those of several tables, which may share rows: each once."""
    found = [words for name in names for words in commands(name, *rest)]
    return list({save_of(words): words for words in found}.values())


def save_of(words):
    return words[words.index('--save') + 1]


def comparable(command):
    """The words of a command line. The first logs of AT+KD are older than --beta_decay: they were
    made with a constant β and do not say so."""
    return shlex.split(command.replace(' --beta_decay constant', ''))


# ---- what is next -------------------------------------------------------------------------------
# The functions of this part only decide. `states` is {folder of a run: what has become of it}:
# 'left', 'locked' (left, and another process is at work on it), 'running', 'finished', 'failed'.

# Flags whose values runs in one process share, as the scripts demand.
SHARED = {f'--{name}' for name in script.SHARED}
# Flags of runs that are never put into one process with others: what is not trained, and what draws
# from the random numbers of the GPU.
ALONE = {'--evaluate', '--dropout'}


def teachers(words, states):
    """The folders of the runs that a command learns from."""
    return [word for word in words if word in states and word != save_of(words)]


def may_start(words, states):
    """Whether a run is left, if perhaps to another process, and its teachers are finished."""
    return states[save_of(words)] in ('left', 'locked') and \
        all(states[folder] == 'finished' for folder in teachers(words, states))


def in_common(words, alone):
    """What commands have in common that one process can take; a run that goes with no other has it
    with none."""
    if ALONE & set(words) or save_of(words) in alone:
        return save_of(words)
    return words[0], {flag: '' if value.startswith('--') else value
                      for flag, value in itertools.pairwise([*words, '--']) if flag in SHARED}


def left_of(states):
    """The folders of the runs that are left."""
    return [folder for folder, state in states.items() if state in ('left', 'locked')]


def next_runs(commands, states, places, size, alone=()):
    """The commands to start now: a list for each process, of which there are `places`, of up to
    `size` runs. alone: the folders of runs that turned out to go with no other."""
    found = []
    ready = [words for words in commands
             if may_start(words, states) and states[save_of(words)] == 'left']
    while ready and len(found) < places:
        first = in_common(ready[0], alone)
        found.append([words for words in ready if in_common(words, alone) == first][:size])
        ready = [words for words in ready if words not in found[-1]]
    return found


def teacher_failed(words, states):
    return any(states[folder] == 'failed' for folder in teachers(words, states))


def with_students(commands, states):
    """The states, with those failed whose teacher has failed."""
    states = dict(states)
    for words in commands:      # teachers first
        if teacher_failed(words, states):
            states[save_of(words)] = 'failed'
    return states


def failures(commands, states):
    """What is said of the runs that failed."""
    return ['(its teacher failed) ' * teacher_failed(words, states) + shlex.join(words)
            for words in commands if states[save_of(words)] == 'failed']


def state_of_rest(status, several, some_over, late, locked):
    """What has become of the runs of a process, one or several, that ended before they did. The
    others may be over; it may be late, and a run may be locked by another process."""
    if late and (several or status == 0):
        return 'left'       # the clock stopped them; if one failed, then it will again
    if several:             # those that go on when others fail end; else the whole process failed
        return 'failed' if status == 1 and some_over else 'left'
    return 'left' if status == 2 and locked else 'failed'


# ---- what the folders say -----------------------------------------------------------------------

def locked(folder):
    """Whether a process is at work on the folder of a run."""
    if not pathlib.Path(folder, 'lock').exists():
        return False    # and make no folder to find that out
    try:
        with runs.lock(folder):
            return False
    except InputError:
        return True


def done(words):
    """Whether the log says that this very command has finished. Of other cases its process says
    what is to be said."""
    log, model = (pathlib.Path(save_of(words), name) for name in ('log.txt', 'model.pt7'))
    try:
        lines = runs.read_log(log)
        # the log is written before the checkpoint: cut off between the two, an epoch is missing
        whole = not model.exists() or model.stat().st_mtime >= log.stat().st_mtime
    except (InputError, FileNotFoundError):
        return False
    return whole and is_finished(lines) and comparable(lines[0].get('command', '')) == \
        comparable(shlex.join(words))


def look(commands, states):
    """Note which of the runs that could be started are locked, finished or left, in place."""
    for words in commands:      # teachers first
        folder = save_of(words)
        if may_start(words, states):
            states[folder] = 'locked' if locked(folder) else 'finished' if done(words) else 'left'
            if states[folder] == 'finished':
                print(f'{folder} is finished', flush=True)


def is_over(words, status, several, late):
    """Whether a run whose process has ended is at its own end. The status is that of all runs of
    the process; after 0, only the clock may have stopped one."""
    if status == 0 and not late:
        return True
    return (several or status in (0, 2)) and done(words)


# ---- the processes ------------------------------------------------------------------------------

def start(group, one_thread, stop_at):
    """Start the process of some commands, which ends early at the time `stop_at`."""
    words = group[0] + [word for others in group[1:] for word in ('+', *others[1:])]
    print('$ python', shlex.join(words), flush=True)
    more = {'STOP_AT': str(stop_at), script.QUIET: '1'}
    more |= {'OMP_NUM_THREADS': '1'} if one_thread else {}
    return subprocess.Popen([sys.executable, README.with_name(words[0]), *words[1:]],
                            env=os.environ | more)


def wait(processes):
    """Wait until one of some processes has ended, or until there may be news of others."""
    until = time.monotonic() + WAIT
    while all(p.poll() is None for p in processes) and time.monotonic() < until:
        time.sleep(.1)


def wait_for_others(left, said):
    """Wait for other processes, if they are at work on something that is left, and say so, if that
    is not what was said before."""
    if left and left != said:
        print('waiting for other processes:', ', '.join(left), flush=True)
    if left:
        time.sleep(WAIT)
    return left


def end(processes):
    """Leave no process running: those that Ctrl-C has reached end by themselves."""
    until = time.monotonic() + PATIENCE
    try:
        for p in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(max(0, until - time.monotonic()))
    finally:
        for p in processes:
            p.terminate()
            p.wait()


def settle(group, status, states, alone, stop_at):
    """Note what has become of the runs of a process that has ended, in place."""
    if status in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    several, late = len(group) > 1, time.time() >= stop_at
    over = [save_of(w) for w in group if is_over(w, status, several, late)]
    rest = [save_of(w) for w in group if save_of(w) not in over]
    faster = status == 2 and any(map(locked, rest))     # another process was
    state = state_of_rest(status, several, bool(over), late, faster)
    states |= dict.fromkeys(over, 'finished') | dict.fromkeys(rest, state)
    if several and not late and not faster:
        alone.update(rest)      # refused, or stopped by the failure of one, which alone will say so


def work(commands, places, size, stop_at):
    """Run commands in up to `places` processes of up to `size` runs -> the states in the end. No
    run is started after the time `stop_at`."""
    states, alone, running, said = dict.fromkeys(map(save_of, commands), 'left'), set(), {}, []
    try:
        while running or left_of(states) and time.time() < stop_at:
            if len(running) < places and time.time() < stop_at:
                look(commands, states)
                for group in next_runs(commands, states, places - len(running), size, alone):
                    running[start(group, places > 1, stop_at)] = group
                    states |= dict.fromkeys(map(save_of, group), 'running')
            if running:
                wait(running)
            else:
                said = wait_for_others(left_of(states), said)
            for process in [p for p in running if p.poll() is not None]:
                settle(running.pop(process), process.returncode, states, alone, stop_at)
                states = with_students(commands, states)
    finally:
        end(running)
    return states


def interrupt(signum, frame):
    raise KeyboardInterrupt


def run(names, root, seeds=None, only='', at_once=1, minutes=None):
    """Run what is not finished of some tables, up to `at_once` runs together; what another process
    is running is waited for. A failed run is named at the end and stops no other, but for its
    students. After so many minutes nothing is started any more, and what runs ends early."""
    # the time may be limited from outside, too
    stop_at = min(float(os.environ.get('STOP_AT', 'inf')), time.time() + 60 * (minutes or math.inf))
    commands = all_commands(names, root, seeds, only)
    cuda = torch.cuda.is_available()
    places, size = (1, at_once) if cuda else (min(at_once, os.cpu_count() or 1), 1)
    before = signal.signal(signal.SIGTERM, interrupt)       # it would leave processes running
    try:
        states = work(commands, places, size, stop_at)
    finally:
        signal.signal(signal.SIGTERM, before)
    show_all(names, root)
    if left_of(states):
        print('the time is up; the same command continues')
    if failed := failures(commands, states):
        raise script.RunError('failed: ' + '; '.join(failed))


# ---- the numbers --------------------------------------------------------------------------------

def is_finished(lines):
    return len(lines) > 1 and lines[-1]['epoch'] == lines[-1]['epochs']


def finished(folder):
    """The logs of the finished runs below a row's folder, by seed."""
    logs = {int(path.parent.name[4:]): runs.read_log(path)
            for path in folder.glob('seed*/log.txt') if path.parent.name[4:].isdecimal()}
    return {seed: logs[seed] for seed in sorted(logs) if is_finished(logs[seed])}


def epochs_of(words, default):
    """The number of epochs that a command asks for; tests have none."""
    if '--evaluate' in words:
        return 0
    return int(words[words.index('--epochs') + 1]) if '--epochs' in words else default


def logs_of(name, root):
    """The logs of a table that are finished, and of its schedule (of any, where it depends on the
    data set how many epochs it has), {row: {seed: lines}}; in a short schedule, in which the whole
    of a table is seldom run, only of the rows that have any."""
    found, (table, epochs) = {}, split(name)
    for row in rows_of(name):
        wanted = epochs or epochs_of(command(name, row, 0, root), TABLES[table]['epochs'])
        logs = finished(pathlib.Path(root, *home(name, row)))
        found[row] = {seed: z for seed, z in logs.items() if wanted in (None, z[-1]['epochs'])}
    return {row: z for row, z in found.items() if z or not epochs}


def errors_of(logs, value='test_acc'):
    return {seed: 100 - z[-1][value] for seed, z in logs.items()}


def mean_and_spread(values, sign='', divisor=1):
    text = f'{statistics.mean(values):{sign}.2f}'
    return text + (f' ± {statistics.stdev(values) / divisor:.2f}' if len(values) > 1 else '')


def difference(errors, plain):
    """Of a row's errors to the plain student's, both {seed: error}, as text; over the seeds that
    both have, whose number is given if it is not the row's."""
    common = [error - plain[seed] for seed, error in errors.items() if seed in plain]
    text = mean_and_spread(common, '+', len(common) ** .5) if common else ''
    return text + (f' (n = {len(common)})' if 0 < len(common) < len(errors) else '')


def seconds(logs):
    return statistics.mean(len(z[1:]) * statistics.median(e['train_time'] + e['test_time']
                                                          for e in z[1:]) for z in logs)


def left(logs, what='multiply_adds'):
    """The part of the multiply-adds that the removal of channels has left, the mean over a row's
    runs; 1 where none were removed. `what` is another number of the log."""
    return statistics.mean(z[-1].get(what, 1) / z[-1].get('multiply_adds_before', 1)
                           for z in logs.values())


def cells(name, row, logs):
    """A row of a table as {column: text}."""
    table, short = split(name)
    table = TABLES[table]
    r = table['rows'][row]
    paper = f'paper, {table["epochs"]} epochs' if short else 'paper'
    number = r['paper'] + (' (unverified)' if r['paper'] and not r['source'] else '')
    against = table.get('against', 'to the plain student')
    z = {table.get('measure', 'test error, %'): r['label'], paper: number, 'ours': '', 'median': '',
         against: '', 'multiply-adds, %': '', 'by image, %': '', 'n': str(len(logs[row])),
         'seconds a run': ''}
    if logs[row]:
        value = table.get('value', 'test_acc')
        errors, plain = (errors_of(v, value) for v in (logs[row], logs.get(r['plain'], {})))
        top5 = [100 - z[-1]['test_acc5'] for z in logs[row].values()] if table.get('top5') else []
        z |= {'ours': ', '.join(mean_and_spread(v) for v in (list(errors.values()), top5) if v),
              against: difference(errors, plain),
              'seconds a run': f'{seconds(logs[row].values()):.0f}'}
        if table.get('pruned'):
            z |= {'multiply-adds, %': f'{100 * left(logs[row]):.1f}',
                  'by image, %': f'{100 * left(logs[row], "multiply_adds_dynamic"):.1f}'}
        if table['medians'] and not short:
            z['median'] = f'{statistics.median(errors.values()):.2f}'
    return z


def grid(name, logs):
    """The cells of a table, the head first, without the columns that are empty."""
    rows = [cells(name, row, logs) for row in logs]
    columns = [k for k in (rows[0] if rows else []) if any(z[k] for z in rows)]
    return [columns, *([z[k] for k in columns] for z in rows)]


def schedule(z):
    """The schedule of a run, of the last line of its log, in words."""
    if not z['epochs']:
        return 'Tested, not trained'
    drops = f'drops at {z["epoch_step"]}'
    if 'iterations' not in z:
        return f'{z["epochs"]} epochs, {drops}'
    decay = {'inv': 'inverse decay', 'exp': 'exponential decay'}.get(z['schedule'], drops)
    return f'{z["epochs"]} epochs of {z["steps"]} steps, {decay}'


def threads(z):
    """Of the epochs of a log, the numbers of threads that most steps had."""
    numbers = sorted({e.get('threads', z[0]['threads']) for e in z[1:]})
    return ' to '.join(map(str, dict.fromkeys([numbers[0], numbers[-1]])))


def note(name, logs):
    """What the rows share: schedules, machines, precisions; with numbers of runs where they differ.
    """
    lines = [z for by_seed in logs.values() for z in by_seed.values()]
    if not lines:
        return 'No run is finished yet.'
    texts = [(schedule(z[-1]),
              f'{z[0]["device"]}, torch {z[0]["torch"]}',
              f'{z[0]["dtype"]}, threads: {threads(z)}') for z in lines]
    counts = [collections.Counter(column) for column in zip(*texts, strict=True)]
    said = ['; '.join(f'{k} ({n[k]} of {len(lines)} runs)' if len(n) > 1 else k for k in sorted(n))
            for n in counts]
    sources = {rows_of(name)[row]['source'] for row in logs} - {''}
    if sources:
        said.append(f"The paper's numbers were checked against {' and '.join(sorted(sources))}")
    missing = len(rows_of(name)) - len(logs)
    if missing:
        said.append(f'Rows without a finished run, not shown: {missing}')
    return '. '.join(said) + '.'


def table_lines(name, root, base=pathlib.Path()):
    """The lines of a table in Markdown, from the logs below base/root."""
    logs = logs_of(name, base / root)
    head, *rows = grid(name, logs)
    for row, texts in zip(logs, rows, strict=True):
        if logs[row]:
            texts[0] = f'[{texts[0]}]({pathlib.Path(root, *home(name, row)).as_posix()})'
    lines = [f'| {" | ".join(texts)} |' for texts in (head, ['---'] * len(head), *rows)]
    return [*(lines if rows else []), '', note(name, logs)]


def draw_curves(name, root, logs):
    """The first seeds' learning curves as ROOT/TABLE/curves.png, if there are any."""
    curves = {rows_of(name)[row]['label']:
              pathlib.Path(folder_of(name, row, min(z), root), 'log.txt')
              for row, z in logs.items() if z and z[min(z)][-1]['epochs']}
    if curves:
        path = pathlib.Path(root, name, 'curves.png')
        plots.plot_curves(curves, path)
        print(f'curves: {path}')


def draw_tradeoff(name, root, logs):
    """Error against multiply-adds, of a table of removal, as ROOT/TABLE/tradeoff.png: a curve for
    each method, which is what a row's label says before its comma."""
    lines = collections.defaultdict(list)
    for row, z in logs.items():
        if z:
            errors = list(errors_of(z).values())
            spread = statistics.stdev(errors) if len(errors) > 1 else 0
            method = rows_of(name)[row]['label'].partition(',')[0]
            lines[method].append((100 * left(z), statistics.mean(errors), spread))
    if lines:
        path = pathlib.Path(root, name, 'tradeoff.png')
        plots.plot_points(lines, path, xlabel='multiply-adds, % of the net', ylabel='test error, %')
        print(f'error against multiply-adds: {path}')


def draw(name, root, logs):
    draw_curves(name, root, logs)
    if TABLES[split(name)[0]].get('pruned'):
        draw_tradeoff(name, root, logs)


def show(name, root):
    """Print a table with aligned columns; draw its learning curves."""
    logs = logs_of(name, root)
    rows = grid(name, logs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title(name))
    for texts in rows:
        print('  '.join(c.ljust(w) for c, w in zip(texts, widths, strict=True)).rstrip())
    print(note(name, logs))
    draw(name, root, logs)


def show_all(names, root):
    for i, name in enumerate(names):
        if i:
            print()
        show(name, root)


def report(readme):
    """The README's text with the block of each table that it has a place for made anew."""
    def block(match):
        name = match[1]
        return '\n'.join([f'<!-- table {name} -->', f'**{title(name)}**', '',
                          *table_lines(name, 'results', README.parent), '',
                          '<!-- end of table -->'])

    return re.sub(r'(?s)<!-- table (\S+) -->.*?<!-- end of table -->', block, readme)


def write_report():
    text = README.read_text()
    README.write_text(report(text))
    root = README.with_name('results')
    for name in re.findall('<!-- table (.+) -->', text):
        draw(name, root, logs_of(name, root))


def parse(argv):
    parser = script.make_parser(__doc__)
    parser.add_argument('what', choices=['commands', 'run', 'show', 'report'])
    parser.add_argument('table', nargs='*', help=f'{", ".join(TABLES)}; all but report need one or '
                        'more')
    parser.add_argument('--root', default='results',
                        help='folder of the runs; report always takes results')
    parser.add_argument('--epochs', type=int, metavar='N', help="the tables in a schedule of N "
                        "epochs instead of the paper's")
    parser.add_argument('--seeds', type=int, metavar='N',
                        help="run seeds 0 to N-1 (default: each row's)")
    parser.add_argument('--only', default='', metavar='ROW',
                        help='run this row alone, with the teachers that it needs')
    parser.add_argument('--at_once', default=1, type=int, metavar='K', help='run: train up to K '
                        'runs together. On a GPU one process trains those of the same images, '
                        'batch size and number of epochs; on a CPU each has a process of one '
                        'thread, and there are no more of them than cores')
    parser.add_argument('--minutes', type=float, metavar='M', help='run: after M minutes start no '
                        'run, and stop those that are being trained behind the epoch that they are '
                        'in; the same command continues')
    opt = parser.parse_intermixed_args(argv)     # `run --root logs TABLE`, too
    script.check_numbers(opt, above_zero=[
        k for k in ('epochs', 'seeds', 'at_once', 'minutes') if getattr(opt, k) is not None])
    return opt


def main(argv=None):
    opt = parse(argv)
    if opt.what == 'report':
        if opt.table or opt.root != 'results' or opt.epochs:
            raise InputError('report takes no table and no options: it writes the tables for which '
                             'README.md has a place, from results/')
        return write_report()
    if not opt.table:
        raise InputError(f'name a table: {", ".join(TABLES)}')
    names = [f'{table}-{opt.epochs}epochs' if opt.epochs else table for table in opt.table]
    for name in names:
        split(name)     # an unknown table is said before anything is done
    if opt.what == 'commands':
        for words in all_commands(names, opt.root, opt.seeds, opt.only):
            print('python', shlex.join(words))
    elif opt.what == 'run':
        run(names, opt.root, opt.seeds, opt.only, opt.at_once, opt.minutes)
    else:
        show_all(names, opt.root)


if __name__ == '__main__':
    script.run(main)
