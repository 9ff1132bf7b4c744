"""The folder of a run: `log.txt`, `model.pt7`, `curves.png`.

`log.txt` has `json_stats: ` lines: the first holds the options and the environment, each further
one the options and an epoch's numbers. `model.pt7` is the last finished epoch, from which the same
command continues. All are written whole or not at all.
"""
import contextlib
import fcntl
import io
import json
import os
import pathlib
import platform
import re
import subprocess
import time

import torch

from system import files, processes
from utils import InputError, RunError
from weights import store
from weights.formats import check_regular

# options that say where and how a run runs, not what it computes
NEUTRAL = {'save', 'save_every', 'resume', 'export', 'dataroot', 'imagenetpath', 'download',
           'nthread', 'ngpu', 'gpu_id', 'cuda', 'compile', 'no_graph', 'command', 'given'}
# what the log says of every epoch, none of it below zero
EVERY_EPOCH = {'epoch': [int], 'epochs': [int], 'test_acc': [int, float]}
HERE = pathlib.Path(__file__).parents[1]


@contextlib.contextmanager
def lock(folder):
    """Lock a run's folder, made if need be: other processes get an InputError. However a process
    ends, its lock ends with it; a new folder that stays empty is removed."""
    path = pathlib.Path(folder, 'lock')
    made = [p for p in path.parents if not os.path.lexists(p)]
    try:
        file = take_lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)    # before it is unlocked: then it may be another's
            file.close()
    finally:
        with contextlib.suppress(OSError):
            for p in made:
                p.rmdir()


def take_lock(path):
    """Open and lock a file -> the open file. InputError, if another process holds it, or its folder
    cannot be one; RunError, if it cannot be written. Try several times: another process may hold
    the lock for an instant to test it, or may be removing the file just opened."""
    reason = ''
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open('w'))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file
            except BlockingIOError:
                reason = ''
            except FileNotFoundError as e:      # its holder has removed it, or its new folder
                reason = e.strerror
            except (FileExistsError, NotADirectoryError):
                raise InputError(f'{path.parent} is not a folder, or lies inside a file: give '
                                 f'another --save') from None
            except OSError as e:
                raise RunError(f'cannot write {path}: {e.strerror}') from None
        time.sleep(.03)
    if reason:
        raise RunError(f'cannot write {path}: {reason}')
    raise InputError(f'another process is at work on {path.parent}: wait for its end, or give '
                     f'another --save')


def environment(opt, device):
    """Return what produced a run's numbers, besides its options."""
    revision, changed = revision_of(HERE)
    return dict(command=opt.command, git=revision, git_dirty=changed, torch=str(torch.__version__),
                python=platform.python_version(), device=device_name(device),
                threads=torch.get_num_threads(), processes=processes.world())


def revision_of(folder):
    """Return the revision of the scripts, and whether a source file was changed since: as git says;
    in a copy without git as the file REVISION does, which `make revision` writes; else ''."""
    def git(*command):
        return subprocess.run(['git', *command], cwd=folder, text=True, capture_output=True,
                              check=True).stdout.strip()

    try:
        if (folder / '.git').exists():
            # of the sources, not of the pictures that runs draw
            return git('rev-parse', 'HEAD'), bool(git('status', '--porcelain', '-uno', '*.py'))
        revision, *changed = (folder / 'REVISION').read_text().split()
        return revision, bool(changed)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return '', False


def cpuinfo():
    """Read what Linux says of the processor; '' on other systems."""
    path = pathlib.Path('/proc/cpuinfo')
    return path.read_text() if path.exists() else ''


def device_name(device):
    """Return the name of a GPU, or of the processor with its number of cores."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    model = re.search(r'model name\s*: (.*)', cpuinfo())
    name = model[1] if model else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} cores'


def read_log(path):
    """Read the lines of a log.txt as dicts: options and environment, then one per epoch.
    InputError, if it is damaged."""
    mark = 'json_stats: '
    check_regular(path)
    try:
        lines = [json.loads(s[len(mark):]) for s in pathlib.Path(path).read_text().splitlines()
                 if s.startswith(mark)]
    except (ValueError, RecursionError):
        lines = ['']
    if not all(isinstance(z, dict) for z in lines):
        raise InputError(f'{path} is damaged: it should hold a json object after each "{mark}"')
    for z in lines[1:]:
        check_line(z, path)
    return lines


def check_line(z, path):
    """Raise an InputError, if numbers of an epoch's line in a log are missing or invalid."""
    for k, kinds in EVERY_EPOCH.items():
        if type(z.get(k)) not in kinds or not 0 <= z[k] < float('inf'):
            raise InputError(f'{path} is damaged: the {k} of an epoch is {z.get(k, "missing")}')


def write_log(path, lines):
    """Write the lines of a log, dicts, whole or not at all. RunError, if that fails."""
    files.write_whole(path, ''.join(f'json_stats: {json.dumps(z, allow_nan=False)}\n'
                                    for z in lines).encode())


def student_of(params):
    """Return the entries of the trained net, without the student's prefix."""
    return {k.removeprefix('student.'): v for k, v in params.items()
            if not k.startswith('teacher.')}


def previous(opt):
    """Find what a run continues from -> checkpoint or None, lines of the log so far.

    The folder's own checkpoint if it holds a run of the same options, else --resume; anything
    else that is in the way is an InputError. Nothing is written here.
    """
    folder = pathlib.Path(opt.save)
    model, log = folder / 'model.pt7', folder / 'log.txt'
    lines = read_log(log) if log.exists() else []
    if not lines and (log.exists() or model.exists()):
        raise InputError(f'{folder} holds a log.txt or model.pt7 that this program did not '
                         f'write; give another --save')
    if len(lines) > 1 or model.exists():
        check_options(opt, lines)
    if len(lines) > 1 and not model.exists():
        last = lines[-1]
        if last['epoch'] >= opt.epochs:
            return dict(epoch=last['epoch']), lines
        if last['epoch'] >= last['epochs']:
            raise InputError(f'{folder} holds a log of {last["epoch"]} epochs but no checkpoint to '
                             f'continue from; give another --save')
        # else it was cut off before its first checkpoint, and begins anew
    if not (model.exists() or opt.resume):
        return None, []
    path = model if model.exists() else store.locate(opt.resume)
    state = store.checkpoint(path)
    if path is not model and state['epoch'] >= opt.epochs:
        raise InputError(f'{path} is at epoch {state["epoch"]}: give a larger --epochs')
    if 'momenta' not in state:
        print(f'{path} was not written by this program: momentum starts from zero')
    if path is not model:
        return state, []
    check_line(state.get('line', {}), path)
    return state, [z for z in lines if z.get('epoch', 0) < state['epoch']] + [state['line']]


def undecided(opt):
    """Return the options that the machine or the number of images decides when a run begins."""
    names = {'dtype'} if opt.dtype == 'auto' else set()
    names |= set() if getattr(opt, 'iterations', 1) else {'iterations'}
    return names if opt.epochs else names | {'epochs', 'epoch_step'}


def differences(opt, line):
    """Compare the options of a run with those of the run that has `line` in its log -> where they
    differ: {option: (logged value, or None if it is not logged, value)}.

    What does not change the numbers of a run (NEUTRAL) is left out, and so is what is `undecided`
    yet. An option that the log lacks is newer than the log, which counts as a run with its default.
    """
    return {k: (line.get(k), v) for k, v in vars(opt).items()
            if k not in NEUTRAL | undecided(opt)
            and (line[k] != v if k in line else k in opt.given)}


def check_options(opt, lines):
    """Raise an InputError that names them for options that compute something else than those in a
    log."""
    last = lines[-1]
    found = differences(opt, last)
    found.pop('iterations', None)       # they are counted as epochs
    reason = why_epochs_stay(opt, last) if 'epochs' in found else ''
    if not reason:
        found.pop('epochs', None)
    if found:
        said = '; '.join(
            f'--{k} was {"the default" if old is None else old or repr(old)}, is {new or repr(new)}'
            for k, (old, new) in found.items())
        if 'epoch_step' in found and last['epochs'] != opt.epochs:
            said += '; fractions of --epochs move with it'
        raise InputError(f'{opt.save} holds a run with other options ({said}{reason}); repeat '
                         f'those, or give another --save')


def why_epochs_stay(opt, last):
    """Say why a run, whose log ends with `last`, cannot continue to the epochs of `opt`; '' if it
    can."""
    if getattr(opt, 'beta_decay', '') in ('linear', 'cosine'):
        return ': --beta falls to zero over the epochs'
    if getattr(opt, 'prune', ''):
        return ': --phases are parts of the epochs'
    return ': the epochs may only grow' if opt.epochs < last['epochs'] else ''


def save_checkpoint(folder, options, line, state, random):
    """Write the last finished epoch of a run: its options, a dict; its line of the log, the
    `step.State`, and the states of the generators from which it draws, {'cpu': that of the run's
    own, 'cuda': [that of the device's, if there is dropout]}.

    The log is written afterwards, so that a run cut off in between loses nothing: `previous` takes
    the line from here. It is written more often, too: `previous` drops the lines of later epochs.
    """
    def on_host(params):
        return {k: v.detach().cpu() for k, v in params.items()}

    data = io.BytesIO()
    torch.save(dict(params=on_host(student_of(state.params)), momenta=on_host(state.momenta),
                    epoch=line['epoch'], line=line, random=random, options=options), data)
    files.write_whole(folder / 'model.pt7', data.getvalue())


@contextlib.contextmanager
def drawing_from(generator):
    """Make what draws from torch's CPU generator draw from this one instead: functions that make
    parameters, and dropout. torch's own stays as it was."""
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
