"""Runs that are killed, or whose disk is full, at moments around each write: the same command must
continue each of them, to the same bits as an undisturbed run.

    python tests/kill.py --times 100

Python tells an audit hook of every file that is opened, renamed or removed. The child counts those
events below its own folder, and dies at the one that is drawn, or up to 3 ms later; or finds, from
that one on, that nothing can be written.
"""
import argparse
import errno
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import torch  # noqa: E402
from helpers import same_run  # noqa: E402

import cifar  # noqa: E402
import imagenet  # noqa: E402
from data import shapes  # noqa: E402
from engine import script  # noqa: E402

EVENTS = 'open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'
QUICK = '--dataset shapes --depth 10 --batch_size 32 --epochs 3 --lr 0.05 --save_every 0'.split()
IMAGENET = ('--imagenetpath shapes --size 40 --width 0.125 --batch_size 20 --epochs 2 --lr 0.01 '
            '--nthread 0 --save_every 0 --cache cache').split()
# name -> the script, its flags, and the folders of its runs
COMMANDS = {
    'one': (cifar, ['--save', 'logs/a', '--export', 'logs/net.pth', *QUICK], ['logs/a']),
    'first epoch': (cifar, ['--save', 'logs/a', *QUICK, '--epochs', '1'], ['logs/a']),
    'two': (cifar, ['--save', 'logs/a', *QUICK, '+', '--save', 'logs/b', '--seed', '1', *QUICK],
            ['logs/a', 'logs/b']),
    'cache': (imagenet, ['--save', 'logs/a', *IMAGENET], ['logs/a']),
}


def writes(event, args):
    """Whether an audit event is one of a write below the current folder."""
    if event not in EVENTS:
        return False
    name, mode, flags = args if event == 'open' else (args[0], 'w', 0)
    if not isinstance(name, (str, bytes)):
        return False
    written = any(c in mode for c in 'wax+') if mode else flags & (os.O_WRONLY | os.O_RDWR)
    inside = pathlib.Path(os.fsdecode(name)).resolve().is_relative_to(pathlib.Path.cwd().resolve())
    return bool(written and inside)


def disturb(fault, at, delay):
    """Let the fault, 'kill' or 'full', happen at the write of number `at`, or `delay` s later; with
    'count', print their number at the end."""
    seen = 0

    def hook(event, args):
        nonlocal seen
        if not writes(event, args):
            return
        seen += 1
        if fault == 'kill' and seen == at:
            if not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if fault == 'full' and seen >= at and event in ('open', 'os.mkdir'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if fault == 'count':
            pathlib.Path('../count').write_text(str(seen))      # not below: not counted

    sys.addaudithook(hook)


def process(folder, name, fault='', at=0, delay=0.):
    """Run a command in a process of its own, forked, with a fault if one is given -> its exit
    status (that of a killed one is negative) and what it says."""
    folder.mkdir(exist_ok=True)
    said = folder / 'said.txt'
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        screen = os.open('said.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        sys.stdout, sys.stderr = open(1, 'w'), open(2, 'w')
        shapes.SHAPES_COUNTS = {'train': 64, 'test': 32}
        if not pathlib.Path('shapes').exists():
            shapes.write_shapes('shapes', {'train': 40, 'test': 20}, 48)
        module, flags, _ = COMMANDS[name]
        if fault:
            disturb(fault, at, delay)
        status = 1
        try:
            script.run(lambda: module.main(flags))
        except SystemExit as e:
            status = e.code
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text()


def trial(name, number, undisturbed, writes, rng):
    """One run with a fault, continued -> what is wrong with it, '' if nothing is."""
    folder = undisturbed.parent / f'{name}-{number}'
    fault, at = rng.choice(['kill', 'kill', 'full']), rng.randint(1, writes)
    delay = rng.choice([0., rng.uniform(0, .003)])
    what = f'{name}: {fault} at write {at} of {writes}, {1000 * delay:.1f} ms later'
    status, said = process(folder, name, fault, at, delay)
    if fault == 'full' and (status not in (0, 1) or 'Traceback' in said):
        return f'{what}: status {status}: {said[-400:]}'
    status, said = process(folder, name)
    if status:
        return f'{what}: cannot be continued: {said[-400:]}'
    if list(folder.rglob('lock')) or list(folder.glob('logs/**/*.tmp')):
        return f'{what}: leaves {sorted(p.name for p in folder.rglob("*"))}'
    same = all((folder / run / 'model.pt7').exists() and same_run(undisturbed / run, folder / run)
               for run in COMMANDS[name][2])
    return '' if same else f'{what}: other numbers than undisturbed'


def main(times, seed, names=tuple(COMMANDS)):
    """Make the trials, of each command in turn -> what was wrong with those that failed."""
    rng, wrong = random.Random(seed), []
    torch.set_num_threads(1)        # with more, a forked process might wait for their pool
    with tempfile.TemporaryDirectory() as home:
        whole = {}
        for name in names:
            folder = pathlib.Path(home, name)
            status, said = process(folder, name, 'count')
            if status:
                return [f'{name}: {said}']
            whole[name] = folder, int(pathlib.Path(home, 'count').read_text())
        for number in range(times):
            name = names[number % len(names)]
            failure = trial(name, number, *whole[name], rng)
            print(f'{number + 1}/{times} {name}', failure or 'ok', flush=True)
            wrong += [failure] if failure else []
    return wrong


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--times', default=5, type=int)
    parser.add_argument('--seed', default=0, type=int, help='of the moments')
    opt = parser.parse_args()
    failures = main(opt.times, opt.seed)
    print(f'{len(failures)} of {opt.times} failed')
    sys.exit(bool(failures))
