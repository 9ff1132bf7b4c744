"""The papers' tables (papers/): print their commands, run them, show the results.

    python tables.py commands TABLE ... print the shell commands, teachers first
    python tables.py run TABLE ...      run what is not finished, then show
    python tables.py show TABLE ...     print the table; plot its learning curves as curves.png and,
                                        with pruning, error against multiply-adds as tradeoff.png
    python tables.py report             write README.md's status table and, for each table that has
                                        runs, results/TABLE/README.md, all from the logs

With --epochs N a table is run with a schedule of N epochs, in its own folder, TABLE-Nepochs.
Several `run` commands started at the same time share the work. The numbers come from the finished
runs in ROOT/TABLE/ROW/seed<k>/log.txt; see papers/results.py.
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

from engine import flags, loop, runs, script
from papers import pages
from papers.catalogue import TABLES
from papers.commands import commands, flags_of, save_of, split
from papers.results import is_finished, print_table
from utils import InputError, RunError

HOME = pathlib.Path(__file__).parent
WAIT = 5            # seconds between looks at what other processes are running
PATIENCE = 10       # seconds that a process has to end by itself after Ctrl-C


# ---- which runs are next ------------------------------------------------------------------------
# These functions only decide. `states` is {folder of a run: state}, where a state is 'waiting',
# 'running', 'finished' or 'failed'. A command comes after those of its teachers.

# flags whose values all runs in a process share, as the scripts require
SHARED = {f'--{name}' for name in script.SHARED}
# flags of runs that need a process of their own: they do not train, or use the GPU's random numbers
ALONE = {'--evaluate', '--dropout'}


def teachers(words, states):
    """Return the folders of the runs that a command learns from."""
    return [word for word in words if word in states and word != save_of(words)]


def in_common(words, alone):
    """Return a value that is equal for commands that one process can run, and unique for a run that
    needs a process of its own; `alone` are the folders of further runs that do."""
    given = flags_of(words)
    if ALONE & set(given) or save_of(words) in alone:
        return save_of(words)
    return words[0], {flag: values for flag, values in given.items() if flag in SHARED}


def side_by_side(commands, places, size, alone=()):
    """Choose the commands to start next: a list of up to `size` runs for each of up to `places`
    processes. alone: the folders of runs that turned out to need a process of their own."""
    groups, rest = [], list(commands)
    while rest and len(groups) < places:
        first = in_common(rest[0], alone)
        groups.append([words for words in rest if in_common(words, alone) == first][:size])
        rest = [words for words in rest if words not in groups[-1]]
    return groups


def teacher_failed(words, states):
    """Return whether a run that a command learns from has failed."""
    return any(states[folder] == 'failed' for folder in teachers(words, states))


def with_failed_students(commands, states):
    """Return the states with the students of failed runs marked as failed, too."""
    states = dict(states)
    for words in commands:
        if teacher_failed(words, states):
            states[save_of(words)] = 'failed'
    return states


def failures(commands, states):
    """Describe the runs that failed, as a list."""
    return ['(its teacher failed) ' * teacher_failed(words, states) + shlex.join(words)
            for words in commands if states[save_of(words)] == 'failed']


# ---- what the folders say -----------------------------------------------------------------------

def locked(folder):
    """Return whether a process is at work on the folder of a run."""
    if not pathlib.Path(folder, 'lock').exists():
        return False    # taking the lock would make the folder
    try:
        with runs.lock(folder):
            return False
    except InputError:
        return True


def options_of(words):
    """Parse a command's options with its script's parser, which may raise an InputError."""
    return importlib.import_module(pathlib.Path(words[0]).stem).parse(words[1:])


def has_finished(words):
    """Return whether the log in a command's folder is that of a finished run with its options; for
    invalid options and logs, which the command's own process reports, False."""
    try:
        lines = runs.read_log(pathlib.Path(save_of(words), 'log.txt'))
        return is_finished(lines) and not runs.differences(options_of(words), lines[-1])
    except (InputError, FileNotFoundError):
        return False


def ready(commands, states):
    """Return the commands that can be started: no process is at work on them, and their teachers
    are finished. Updates the states in place where a run turns out to be finished itself."""
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
    """Start a process for some commands, which ends early at the time `stop_at`."""
    words = group[0] + [word for others in group[1:] for word in ('+', *others[1:])]
    print('$ python', shlex.join(words), flush=True)
    threads = {'OMP_NUM_THREADS': '1'} if one_thread else {}
    env = os.environ | threads | {'STOP_AT': str(stop_at), script.QUIET: '1'}
    return subprocess.Popen([sys.executable, HOME / words[0], *words[1:]], env=env)


def wait_for_news(processes):
    """Wait until one of the processes ends, at most WAIT seconds."""
    until = time.monotonic() + WAIT
    while all(p.poll() is None for p in processes) and time.monotonic() < until:
        time.sleep(.1)


def end_processes(processes):
    """Leave no process running: give each time to end by itself, as after Ctrl-C, then kill it."""
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
    """Update `states` and `alone` in place after the process of some runs has ended. late: whether
    the time was up, which stops runs early."""
    if status in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    over = [words for words in group if status == 0 and not late or has_finished(words)]
    states |= dict.fromkeys(map(save_of, over), 'finished')
    rest = [save_of(words) for words in group if words not in over]
    # another process took the lock first, or the time was up
    again = status == 2 and any(map(locked, rest)) or late and (status == 0 or len(group) > 1)
    states |= dict.fromkeys(rest, 'waiting' if again or len(group) > 1 else 'failed')
    if len(group) > 1 and not again:
        alone.update(rest)      # to find out which of them fails, and to finish the others


def run_all(commands, places, size, stop_at):
    """Run commands in up to `places` processes with up to `size` runs each, and return the states
    at the end. No run is started after the time `stop_at`."""
    states, alone = dict.fromkeys(map(save_of, commands), 'waiting'), set()
    running, said = {}, []      # {process: its commands}; the folders last said to be waited for
    try:
        while running or 'waiting' in states.values() and time.time() < stop_at:
            if len(running) < places and time.time() < stop_at:
                free = places - len(running)
                for group in side_by_side(ready(commands, states), free, size, alone):
                    running[start_process(group, places > 1, stop_at)] = group
                    states |= dict.fromkeys(map(save_of, group), 'running')
            others = [folder for folder, state in states.items() if state == 'waiting']
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


def all_commands(names, *rest):
    """Return the commands of several tables, each once, since tables may share rows."""
    return list({save_of(words): words for name in names for words in commands(name, *rest)
                 }.values())


def run_tables(names, root, seeds=None, only='', at_once=1, minutes=None):
    """Run what is not finished in some tables, up to `at_once` runs at a time, and wait for what
    other processes are running. A failed run stops only its students; a RunError at the end names
    all that failed. After so many minutes no run is started, and those in progress end early."""
    stop_at = min(loop.time_to_stop(), time.time() + 60 * (minutes or math.inf))
    commands = all_commands(names, root, seeds, only)
    cuda = torch.cuda.is_available()
    places, size = (1, at_once) if cuda else (min(at_once, os.cpu_count() or 1), 1)
    # as Ctrl-C, since by default SIGTERM would leave the processes running
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        states = run_all(commands, places, size, stop_at)
    except KeyboardInterrupt:
        raise KeyboardInterrupt('the same command continues') from None
    finally:
        signal.signal(signal.SIGTERM, before)
    show_tables(names, root, only)
    if 'waiting' in states.values():
        print('the time is up; the same command continues')
    if failed := failures(commands, states):
        raise RunError('failed: ' + '; '.join(failed))


# ---- the command line ---------------------------------------------------------------------------

def show_tables(names, root, only=''):
    """Print tables, or one row of each, with a blank line between them, and write their plots."""
    for i, name in enumerate(names):
        if i:
            print()
        print_table(name, root, only)


def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    parser.add_argument('what', metavar='COMMAND', choices=['commands', 'run', 'show', 'report'],
                        help='commands, run, show or report, as above')
    parser.add_argument('table', nargs='*', metavar='TABLE', help='one or more of '
                        f'{", ".join(TABLES)}; none for report; docs/experiments.md describes them')
    parser.add_argument('--root', default='results', metavar='DIR', help='folder of the runs')
    parser.add_argument('--epochs', type=int, metavar='N', help="a schedule of N epochs instead of "
                        "the paper's")
    parser.add_argument('--seeds', type=int, metavar='N',
                        help="seeds 0 to N-1 (default: each row's own number)")
    parser.add_argument('--only', default='', metavar='ROW',
                        help='only this row and the teachers that it needs; its name is that of '
                        'its folder in what `commands` prints')
    parser.add_argument('--at_once', default=1, type=int, metavar='K', help='run: train up to K '
                        'runs at a time: on a GPU in one process, if they share images, batch size '
                        'and number of epochs; on a CPU each in a process with one thread, and at '
                        'most as many as there are cores')
    parser.add_argument('--minutes', type=float, metavar='M', help='run: after M minutes start no '
                        'more runs, and stop the current ones after their epoch; the same command '
                        'continues')
    opt = parser.parse_intermixed_args(argv)     # `run --root logs TABLE`, too
    flags.check_numbers(opt, above_zero=('epochs', 'seeds', 'at_once', 'minutes'))
    return opt


def main(argv=None):
    """Run the command line `argv` (None: the process's own). InputError, RunError if it fails."""
    opt = parse(argv)
    if opt.what == 'report':
        if opt != parse(['report']):
            raise InputError('report takes no table and no options: it writes README.md\'s status '
                             'table and the pages of all tables, from results/')
        return pages.write_all(HOME)
    if not opt.table:
        raise InputError(f'name a table: {", ".join(TABLES)}')
    if opt.what == 'show' and opt.seeds:
        raise InputError('show prints all seeds: leave out --seeds')
    names = [f'{table}-{opt.epochs}epochs' if opt.epochs else table for table in opt.table]
    for name in names:
        split(name)     # refuse an unknown table before anything is done
    if opt.what == 'commands':
        for words in all_commands(names, opt.root, opt.seeds, opt.only):
            print('python', shlex.join(words))
    elif opt.what == 'run':
        run_tables(names, opt.root, opt.seeds, opt.only, opt.at_once, opt.minutes)
    else:
        show_tables(names, opt.root, opt.only)


if __name__ == '__main__':
    script.run(main)
