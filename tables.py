"""The tables of the papers (papers/): their commands, and the numbers that the logs hold.

    python tables.py commands TABLE ... the shell lines, teachers first
    python tables.py run TABLE ...      run what is not finished, then show
    python tables.py show TABLE ...     the table, and its learning curves as curves.png (for
                                        pruning, error against multiply-adds as tradeoff.png)
    python tables.py report             README.md's status table, and for each table that has runs
                                        results/TABLE/README.md, from the logs alone

With --epochs N a table is run in a schedule of N epochs, into a folder of its own, TABLE-Nepochs.
With --at_once K up to K runs are trained together: on a GPU by one process, in which the runs of a
command line stand side by side with a + between; on a CPU by K processes of one thread each.
Several `run`s side by side share the work: each run is done by one of them.

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt; see papers/results.py.
"""
import contextlib
import importlib
import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import torch

from engine import flags, runs, script
from papers import pages
from papers.catalogue import TABLES
from papers.commands import commands, flags_of, save_of, split
from papers.results import is_finished, show
from utils import InputError, RunError

HOME = pathlib.Path(__file__).parent
WAIT = 5            # seconds until `run` looks again at what other processes are running
PATIENCE = 10       # seconds in which a process that Ctrl-C has reached ends by itself


# ---- which runs are next ------------------------------------------------------------------------
# The functions of this part only decide. `states` is {folder of a run: what has become of it}:
# 'waiting', 'running', 'finished', 'failed'. Commands stand after those of their teachers.

# Flags whose values runs in one process share, as the scripts demand.
SHARED = {f'--{name}' for name in script.SHARED}
# Flags of runs that are never put into one process with others: what is not trained, and what draws
# from the random numbers of the GPU.
ALONE = {'--evaluate', '--dropout'}


def waiting(states):
    """Return the folders of the runs that have not begun here."""
    return [folder for folder, state in states.items() if state == 'waiting']


def teachers(words, states):
    """Return the folders of the runs that a command learns from."""
    return [word for word in words if word in states and word != save_of(words)]


def in_common(words, alone):
    """Return what is equal for commands that one process can run; unique for a run that goes
    alone."""
    flags = flags_of(words)
    if ALONE & set(flags) or save_of(words) in alone:
        return save_of(words)
    return words[0], {flag: values for flag, values in flags.items() if flag in SHARED}


def side_by_side(commands, places, size, alone=()):
    """Choose the commands to start first: a list for each process, of which there are `places`, of
    up to `size` runs. alone: the folders of runs that turned out to go with no other."""
    groups, rest = [], list(commands)
    while rest and len(groups) < places:
        first = in_common(rest[0], alone)
        groups.append([words for words in rest if in_common(words, alone) == first][:size])
        rest = [words for words in rest if words not in groups[-1]]
    return groups


def teacher_failed(words, states):
    """Whether a run that a command learns from has failed."""
    return any(states[folder] == 'failed' for folder in teachers(words, states))


def with_failed_students(commands, states):
    """Return the states, in which runs whose teacher has failed have failed too."""
    states = dict(states)
    for words in commands:
        if teacher_failed(words, states):
            states[save_of(words)] = 'failed'
    return states


def failures(commands, states):
    """Return what is said of the runs that failed."""
    return ['(its teacher failed) ' * teacher_failed(words, states) + shlex.join(words)
            for words in commands if states[save_of(words)] == 'failed']


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


def options_of(words):
    """Parse a command's options as its script does. InputError, if it refuses them."""
    return importlib.import_module(pathlib.Path(words[0]).stem).parse(words[1:])


def has_finished(words):
    """Whether the log in a command's folder is that of a finished run of its options. Of other
    cases its process says what is to be said."""
    try:
        lines = runs.read_log(pathlib.Path(save_of(words), 'log.txt'))
        return is_finished(lines) and not runs.differences(options_of(words), lines[-1])
    except (InputError, FileNotFoundError):
        return False


def ready(commands, states):
    """Return the commands that can be started: nobody is at work on them, and their teachers are
    finished. Notes, in place, which of them are finished themselves."""
    found = []
    for words in commands:
        folder = save_of(words)
        if states[folder] != 'waiting' or locked(folder) or \
                any(states[teacher] != 'finished' for teacher in teachers(words, states)):
            continue
        if has_finished(words):
            states[folder] = 'finished'
            print(f'{folder} is finished', flush=True)
        else:
            found.append(words)
    return found


# ---- the processes ------------------------------------------------------------------------------

def start_process(group, one_thread, stop_at):
    """Start the process of some commands, which ends early at the time `stop_at`."""
    words = group[0] + [word for others in group[1:] for word in ('+', *others[1:])]
    print('$ python', shlex.join(words), flush=True)
    more = {'STOP_AT': str(stop_at), script.QUIET: '1'}
    more |= {'OMP_NUM_THREADS': '1'} if one_thread else {}
    return subprocess.Popen([sys.executable, HOME / words[0], *words[1:]],
                            env=os.environ | more)


def wait_for_news(processes):
    """Wait until one of some processes has ended, or until there may be news of others."""
    until = time.monotonic() + WAIT
    while all(p.poll() is None for p in processes) and time.monotonic() < until:
        time.sleep(.1)


def end_processes(processes):
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


def note_end(group, status, states, alone, late):
    """Note what has become of the runs of a process that has ended, in place. late: the time was
    up, which stops runs before their ends."""
    if status in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    over = [words for words in group if status == 0 and not late or has_finished(words)]
    states |= dict.fromkeys(map(save_of, over), 'finished')
    rest = [save_of(words) for words in group if words not in over]
    # another process was faster; the clock stopped them
    again = status == 2 and any(map(locked, rest)) or late and (status == 0 or len(group) > 1)
    states |= dict.fromkeys(rest, 'waiting' if again or len(group) > 1 else 'failed')
    if len(group) > 1 and not again:
        alone.update(rest)      # each by itself, to say what is wrong with it or to go on


def run_all(commands, places, size, stop_at):
    """Run commands in up to `places` processes of up to `size` runs -> the states in the end. No
    run is started after the time `stop_at`."""
    states, alone = dict.fromkeys(map(save_of, commands), 'waiting'), set()
    running, said = {}, []      # {process: its commands}; the folders that were waited for
    try:
        while running or waiting(states) and time.time() < stop_at:
            if len(running) < places and time.time() < stop_at:
                free = places - len(running)
                for group in side_by_side(ready(commands, states), free, size, alone):
                    running[start_process(group, places > 1, stop_at)] = group
                    states |= dict.fromkeys(map(save_of, group), 'running')
            others = waiting(states)
            if running:
                wait_for_news(running)
            elif others:
                if others != said:
                    print('waiting for other processes:', ', '.join(others), flush=True)
                said = others
                time.sleep(WAIT)
            for process in [p for p in running if p.poll() is not None]:
                late = time.time() >= stop_at
                note_end(running.pop(process), process.returncode, states, alone, late)
                states = with_failed_students(commands, states)
    finally:
        end_processes(running)
    return states


def raise_interrupt(signum, frame):
    """Handle a signal as Ctrl-C."""
    raise KeyboardInterrupt


def all_commands(names, *rest):
    """Return the commands of several tables, which may share rows: each once."""
    found = [words for name in names for words in commands(name, *rest)]
    return list({save_of(words): words for words in found}.values())


def run_tables(names, root, seeds=None, only='', at_once=1, minutes=None):
    """Run what is not finished of some tables, up to `at_once` runs together; what another process
    is running is waited for. A failed run stops no other, but for its students; a RunError names
    all in the end. After so many minutes nothing is started any more, and what runs ends early."""
    # the time may be limited from outside, too
    stop_at = min(float(os.environ.get('STOP_AT', 'inf')), time.time() + 60 * (minutes or math.inf))
    commands = all_commands(names, root, seeds, only)
    cuda = torch.cuda.is_available()
    places, size = (1, at_once) if cuda else (min(at_once, os.cpu_count() or 1), 1)
    before = signal.signal(signal.SIGTERM, raise_interrupt)     # it would leave processes running
    try:
        states = run_all(commands, places, size, stop_at)
    except KeyboardInterrupt:
        raise KeyboardInterrupt('the same command continues') from None
    finally:
        signal.signal(signal.SIGTERM, before)
    show_tables(names, root)
    if waiting(states):
        print('the time is up; the same command continues')
    if failed := failures(commands, states):
        raise RunError('failed: ' + '; '.join(failed))


# ---- the command line ---------------------------------------------------------------------------

def show_tables(names, root):
    """Print tables, with a blank line between, and draw their pictures."""
    for i, name in enumerate(names):
        if i:
            print()
        show(name, root)


def parse(argv):
    parser = flags.make_parser(__doc__)
    parser.add_argument('what', choices=['commands', 'run', 'show', 'report'])
    parser.add_argument('table', nargs='*', help=f'{", ".join(TABLES)}; all but report need one or '
                        'more; docs/experiments.md says what they hold')
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
                        'run, and stop those that are being trained after the epoch that they are '
                        'in; the same command continues')
    opt = parser.parse_intermixed_args(argv)     # `run --root logs TABLE`, too
    flags.check_numbers(opt, above_zero=[
        k for k in ('epochs', 'seeds', 'at_once', 'minutes') if getattr(opt, k) is not None])
    return opt


def main(argv=None):
    opt = parse(argv)
    if opt.what == 'report':
        if opt != parse(['report']):
            raise InputError('report takes no table and no options: it writes README.md\'s status '
                             'table and the pages of all tables, from results/')
        return pages.write(HOME)
    if not opt.table:
        raise InputError(f'name a table: {", ".join(TABLES)}')
    if opt.what == 'show' and (opt.seeds or opt.only):
        raise InputError('show prints whole tables: leave --seeds and --only out')
    names = [f'{table}-{opt.epochs}epochs' if opt.epochs else table for table in opt.table]
    for name in names:
        split(name)     # an unknown table is said before anything is done
    if opt.what == 'commands':
        for words in all_commands(names, opt.root, opt.seeds, opt.only):
            print('python', shlex.join(words))
    elif opt.what == 'run':
        run_tables(names, opt.root, opt.seeds, opt.only, opt.at_once, opt.minutes)
    else:
        show_tables(names, opt.root)


if __name__ == '__main__':
    script.run(main)
