"""What surrounds the training loop in every script: its start, and its exit status.

The loop is in loop.py, a step of it in step.py, the folder that a run leaves behind in runs.py.
"""
import contextlib
import ctypes
import errno
import itertools
import os
import pathlib
import platform
import re
import shlex
import sys
import time

import torch

from engine import loop, plots, runs
from system import interrupts, processes
from utils import InputError, RunError, shown
from weights import store


def set_up(opt):
    """Choose device, precision and determinism -> the device. Fills in `opt.dtype`. InputError, if
    the processes cannot share a batch evenly."""
    device = processes.connect()
    if opt.batch_size % processes.world():
        raise InputError(f'--batch_size {opt.batch_size} cannot be shared evenly by '
                         f'{processes.world()} processes')
    if opt.dtype == 'auto':
        opt.dtype = 'bfloat16' if computes_bfloat16(device) else 'float'
    if opt.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(opt.deterministic)
    torch.backends.cudnn.benchmark = not opt.deterministic
    torch.backends.cudnn.allow_tf32 = False     # float is float, as for products
    keep_memory()
    return device


def main(argv, script, parse, make_training, instead=lambda opt: None,
         prepare=lambda opt, device: (), exported=lambda opt, params: params,
         afterwards=lambda opt, device: None):
    """Run the command line `argv` (None: the process's own) of the file `script`: train one run
    or, with ` + ` between their flags, several side by side. InputError for invalid options,
    RunError for failed runs.

    parse(argv) -> options; make_training(opt, device, checkpoint, lines, *prepared) ->
    `loop.Training`, where `prepared` is what prepare(opt, device) has read because the number of
    epochs depends on it; instead(opt) -> None, or what to do with (opt, device) instead of
    training; exported(opt, params): what --export writes of a net; afterwards(opt, device): called
    for each finished run.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parts = split_at_plus(argv)
    opts = [parse(part) for part in parts]
    for opt, part in zip(opts, parts, strict=True):
        opt.command = shlex.join([pathlib.Path(script).name, *part])
    if len(opts) > 1 and any(map(instead, opts)):
        raise InputError('+ joins trainings only: run anything else alone')
    check_together(opts)
    opt = opts[0]
    processes.choose_gpus(opt.gpu_id)
    if opt.ngpu > 1 and not processes.launched():
        return processes.launch(opt.ngpu, script, argv)
    device = [set_up(opt) for opt in opts][0]
    if do := instead(opt):
        do(opt, device)
    else:
        train(opts, device, make_training, prepare, exported, afterwards)
    processes.disconnect()


def split_at_plus(words):
    """Split words at '+' -> the lists between. InputError, if one is empty."""
    parts = [list(part) for plus, part in itertools.groupby(words, '+'.__eq__) if not plus]
    if '+' in words and len(parts) <= words.count('+'):
        raise InputError('there is a + without the flags of a run on both sides')
    return parts or [[]]


# options that runs side by side share
SHARED = ('dataset', 'dataroot', 'imagenetpath', 'domain', 'target', 'per_class', 'fraction',
          'batch_size', 'epochs', 'iterations', 'steps_per_epoch', 'validate', 'size', 'ngpu',
          'gpu_id', 'deterministic', 'no_graph', 'nthread', 'skip_broken')


def check_together(opts):
    """Raise an InputError for runs that cannot be trained side by side."""
    if len(opts) == 1:
        return
    for name in SHARED:
        values = [getattr(opt, name, None) for opt in opts]
        if any(v != values[0] for v in values):
            raise InputError(f'runs joined by + need the same --{name}, not '
                             f'{" and ".join(map(str, dict.fromkeys(values)))}; repeat the flags '
                             f'that they share in each part')
    if opts[0].ngpu > 1 or processes.launched():
        raise InputError('runs side by side share one process: omit --ngpu and torchrun')
    folders = [os.path.realpath(opt.save) for opt in opts]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(f'two runs have the folder {folder}: give each its own --save')


def train(opts, device, make_training, prepare, exported, afterwards):
    """Lock the folders of runs, find what they continue from, train what is missing, finish them.
    InputError, if a folder cannot be used; RunError, if a run fails."""
    found = [prepare(opt, device) for opt in opts]
    with contextlib.ExitStack() as stack:
        for opt in opts if processes.is_first() else ():
            stack.enter_context(runs.lock(opt.save))
        trainings = {}
        for opt, prepared in zip(opts, found, strict=True):
            checkpoint, lines = processes.from_first(lambda opt=opt: runs.previous(opt))
            if not checkpoint or checkpoint['epoch'] < opt.epochs:
                trainings[opt.save] = make_training(opt, device, checkpoint, lines, *prepared)
            elif processes.is_first():      # cut off, it may lack the line of the last epoch
                runs.write_log(pathlib.Path(opt.save, 'log.txt'), lines)
        left = list(trainings.values())
        if left:
            fit_or_clean_up(left, device)
        for opt in opts if processes.is_first() else ():
            if opt.save not in trainings or trainings[opt.save].is_done:
                finish(opt, exported)
                afterwards(opt, device)
    failed = [t for t in left if t.failure]
    if failed:
        raise RunError(failed[0].failure if len(opts) == 1 else
                       f'failed: {", ".join(str(t.folder) for t in failed)}')
    if any(not t.is_done for t in left):
        print('the time is up; the same command continues')


def fit_or_clean_up(trainings, device):
    """Call `loop.fit`; on Ctrl-C say what the same command would do. Runs that fail in their first
    step, say for want of memory, leave no log behind."""
    try:
        loop.fit(trainings, device)
    except (InputError, RuntimeError, MemoryError, OSError):
        for t in trainings:
            if t.epoch == 0 and t.steps <= 1 and processes.is_first():
                t.folder.joinpath('log.txt').unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        kept = any(t.kept for t in trainings)
        raise KeyboardInterrupt('the same command continues from the last checkpoint' if kept else
                                'there is no checkpoint yet') from None


def finish(opt, exported):
    """Finish a run that has all its epochs: draw its curves, and --export its net, as `exported`
    makes it."""
    folder = pathlib.Path(opt.save)
    last = runs.read_log(folder / 'log.txt')[-1]
    print(f'{folder} is finished: {last["epoch"]} epoch{"s" * (last["epoch"] > 1)}, '
          f'{loop.tested_on(last)} error {100 - last["test_acc"]:.2f} %')
    plots.plot_curves({folder.name: folder / 'log.txt'}, folder / 'curves.png')
    if opt.export:
        store.write_params(exported(opt, store.read_params(folder / 'model.pt7')), opt.export)
        print(f'wrote {opt.export}')


def keep_memory():
    """Let glibc keep what is freed: giving the activations of each step back to the kernel and
    faulting them in again can cost time on a CPU (`bench.py cifar --ablate` says how much)."""
    if platform.libc_ver()[0] == 'glibc':
        mallopt, mmap_max, trim_threshold = ctypes.CDLL(None).mallopt, -4, -1   # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2 ** 31 - 1)


def computes_bfloat16(device):
    """Return whether the device has instructions for bfloat16 products."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(re.search(r'\b(avx512_bf16|amx_bf16|bf16)\b', runs.cpuinfo()))


# what no code can help: disks that are full, broken or read-only, too many open files
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE,
                  errno.ENOMEM}


def message_of(e):
    """Return what an error says to the user; '' for one that is a fault of the code."""
    if isinstance(e, (InputError, RunError)):
        return str(e)
    if isinstance(e, OSError) and e.errno in OF_THE_MACHINE:
        return f'{e.strerror}: {e.filename or "perhaps standard output cannot be written"}'
    text = str(e).partition('\n')[0]
    if isinstance(e, (MemoryError, torch.OutOfMemoryError)) or any(
            k in text for k in ("can't allocate memory", 'calculation overflowed')):
        return f'not enough memory: choose a smaller net, batch or image ({text})'
    if 'does not have a deterministic implementation' in text:
        return f'--deterministic is not possible here: {text.partition(",")[0]}. Leave it out'
    return ''


def end_output():
    """Discard what is still printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


QUIET = 'INTERRUPTED_QUIETLY'       # set by a process that says itself that it was interrupted


def run(main):
    """Call main() and end the process: 0 done, 2 bad input, 1 failure while running (each one
    line, no traceback), 130 interrupted."""
    status = 0
    interrupts.catch()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(AttributeError):       # in a notebook it is something else
            stream.reconfigure(errors='backslashreplace')       # names of files that are not UTF-8
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:     # the reader of our output, such as head, has enough
        end_output()
    except (InputError, RuntimeError, MemoryError, OSError) as e:
        text = message_of(e)
        if not text and processes.launched():   # another one, with which this one spoke, says why
            time.sleep(2 * processes.PATIENCE)
        if not text:
            raise
        if isinstance(e, OSError):      # else Python would try to write the rest, and complain
            end_output()
        processes.say(shown(text))
        status = 2 if isinstance(e, InputError) else 1
    except KeyboardInterrupt as e:
        if processes.is_first() and not os.environ.get(QUIET):
            print('; '.join(['interrupted', *e.args]), file=sys.stderr)
        status = 130
    if status in (1, 2):
        processes.leave()
    sys.exit(status)
