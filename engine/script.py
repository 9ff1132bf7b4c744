"""What is around the training loop in every script: common flags, start, exit status.

The loop is in loop.py, a step of it in step.py, the folder that a run leaves behind in runs.py.
"""
import argparse
import contextlib
import ctypes
import errno
import json
import os
import pathlib
import platform
import re
import shlex
import sys
import time

import torch

from engine import interrupts, loop, plots, processes, runs, step
from utils import InputError, RunError, shown
from weights import store

# ---- the script around a run --------------------------------------------------------------------

class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A script's docstring as it stands, and the default of every flag that has one."""

    def _get_help_string(self, action):
        without = action.default in (None, '', []) or action.default is False
        return action.help if without else super()._get_help_string(action)


def make_parser(doc):
    """A parser of a script's flags whose errors are InputErrors, of one line."""
    def error(message):
        raise InputError(f'{message}; see --help')

    parser = argparse.ArgumentParser(description=doc, formatter_class=Help)
    parser.error = error
    return parser


def parse_args(parser, argv):
    """The options of the words `argv`; `given` are the names of those that are not at their
    defaults. InputError, if the parser does not understand the words."""
    opt = parser.parse_args(argv)
    opt.given = [k for k, v in vars(opt).items() if v != parser.get_default(k)]
    return opt


def add_schedule_flags(parser):
    """The schedule of training, which all scripts share -> the group of its flags."""
    t = parser.add_argument_group('training')
    t.add_argument('--batch_size', type=int, metavar='N', help='images of a step, in all processes '
                   'together')
    t.add_argument('--epochs', type=int, metavar='N', help='passes over the training images')
    t.add_argument('--lr', type=float, metavar='RATE', help='learning rate at the start, of SGD '
                   'with momentum 0.9')
    t.add_argument('--epoch_step', metavar='LIST', help='json list of the epochs, from 1, at whose '
                   'start the learning rate drops; numbers below 1 are fractions of --epochs')
    t.add_argument('--lr_decay_ratio', type=float, metavar='X', help='factor of the learning rate '
                   'at each drop')
    t.add_argument('--weight_decay', type=float, metavar='X', help='weight of half the squared '
                   'norm of the trained parameters, those of batch normalisation included')
    t.add_argument('--nesterov', action='store_true', help="Nesterov's momentum")
    t.add_argument('--seed', default=0, type=int, metavar='N', help='of initialisation, order of '
                   'the images, augmentation, dropout')
    return t


def add_run_flags(parser, **defaults):
    """Where and on what a run runs, which all scripts share; `defaults` are a script's own, of
    these and other flags."""
    r = parser.add_argument_group('run')
    r.add_argument('--save', default='', metavar='DIR',
                   help="folder of log and checkpoint; '': logs/, named by the options")
    r.add_argument('--validate', default=0, type=int, metavar='N', help='hold N training images '
                   'out, to choose options on them: they are tested on instead of the test set, or '
                   'with finetune.py beside it')
    r.add_argument('--save_every', default=30, type=float, metavar='SECONDS', help='between '
                   'checkpoints, which are written at the end of an epoch, of the first one in any '
                   'case; 0: of each one. The same command continues a run from its last one')
    r.add_argument('--resume', default='', metavar='FILE', help="checkpoint of another run to "
                   'start from, its epochs included')
    r.add_argument('--export', default='', metavar='FILE', help='write the trained net alone to '
                   'this file at the end: .pth or .hkl')
    d = parser.add_argument_group('device')
    d.add_argument('--dtype', default='auto', choices=['auto', *step.DTYPES],
                   help='of activations (parameters are kept in float at least); auto: bfloat16 '
                   'where the hardware has instructions for it, else float')
    d.add_argument('--nthread', default=4, type=int, metavar='N', help='worker processes that load '
                   'images, of each process; none for data sets that are held in memory')
    d.add_argument('--ngpu', default=1, type=int, metavar='N', help='processes to start, one for '
                   'each GPU, which share the batch; not needed under torchrun')
    d.add_argument('--gpu_id', default='', metavar='LIST', help="value for CUDA_VISIBLE_DEVICES, "
                   "as 0,1; '' leaves the environment alone, and so does torchrun")
    d.add_argument('--deterministic', action='store_true', help='deterministic algorithms alone, '
                   'which may be slower: the same bits on the same machine')
    d.add_argument('--no_graph', action='store_true', help='on a GPU: launch the kernels of each '
                   'step one by one, instead of as one CUDA graph, to look for faults')
    d.add_argument('--compile', action='store_true', help='torch.compile the objective, which '
                   'takes a minute or so')
    d.add_argument('--cuda', action='store_true', help='accepted for old commands and ignored: a '
                   'GPU is used where there is one')
    parser.set_defaults(**defaults)


def check_flags(opt):
    """Refuse values that mean nothing; make a list of --epoch_step."""
    check_numbers(opt, above_zero=('batch_size', 'lr', 'lr_decay_ratio', 'ngpu'),
                  zero_or_more=('weight_decay', 'validate', 'nthread', 'seed', 'epochs',
                                'save_every'))
    if opt.batch_size % opt.ngpu:
        raise InputError(f'--batch_size {opt.batch_size} cannot be shared evenly by {opt.ngpu} '
                         f'processes')
    steps = json_list(opt.epoch_step, '--epoch_step', "[60,120,160]' or '[0.3,0.6,0.8]")
    if not all(map(is_epoch, steps)):
        raise InputError(f'--epoch_step {opt.epoch_step}: give whole epochs from 1, or fractions '
                         f'between 0 and 1')
    opt.epoch_step = steps
    if opt.export:
        store.check_format(opt.export)


LARGE = 2 ** 32     # what no whole number on a command line reaches; seeds of numpy are below
LIMITS = {'size': 2 ** 15, 'width': 2 ** 15}


def whole_epochs(opt):
    """Resolve the fractions in --epoch_step to epochs, the first one never: 0.3 of 200 is 60."""
    opt.epoch_step = [whole_epoch(s, opt.epochs, 2) for s in opt.epoch_step]


def is_epoch(value):
    """Whether a value is a whole epoch from 1, or a fraction of all epochs."""
    return type(value) is int and value > 0 or type(value) is float and 0 < value < 1


def whole_epoch(value, epochs, first=1):
    """The epoch that `is_epoch` has accepted, of so many, `first` at least where it is a fraction.
    """
    return value if type(value) is int else max(first, round(value * epochs))


def check_numbers(opt, above_zero=(), zero_or_more=()):
    """Refuse values of the named options that are too small, or so large that something would
    overflow; None is no value."""
    for name in (*above_zero, *zero_or_more):
        value = getattr(opt, name)
        limit = LIMITS.get(name, LARGE if type(value) is int else float('inf'))
        if value is None or 0 < value < limit or value == 0 and name in zero_or_more:
            continue
        least = 'a number above zero' if name in above_zero else 'zero or more'
        raise InputError(f'--{name} is {value}: give '
                         f'{f"less than {limit}" if value >= limit else least}')


def json_list(text, flag, example):
    """The list that a flag's text stands for."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise InputError(f"{flag} {text}: give a json list such as '{example}'")
    return value


def unusual(opt, usual):
    """What the name of a run says of its options that are not the `usual` ones ({name: value})."""
    return [f'{k}{getattr(opt, k)}' for k, v in usual.items() if getattr(opt, k) != v]


def set_up(opt):
    """Device, precision and determinism -> the device. Fills in `opt.dtype`."""
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


def main(argv, script, parse, prepare, instead=lambda opt: None,
         exported=lambda opt, params: params, afterwards=lambda opt, device: None):
    """What the command line `argv` (None: the process's) of the file `script` says: train one run,
    or, with ` + ` between their flags, several side by side.

    parse(argv) -> options; prepare(opt, device) -> (checkpoint, lines) -> `loop.Training`, of which
    the first part reads what the number of epochs depends on; instead(opt) -> None, or what to do
    with (opt, device) instead of training; exported(opt, params): what --export writes of a net;
    afterwards(opt, device): called for each run that is done.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parts = split_at_plus(argv)
    opts = [parse(part) for part in parts]
    for opt, part in zip(opts, parts, strict=True):
        opt.command = shlex.join([pathlib.Path(script).name, *part])
    if len(opts) > 1 and any(map(instead, opts)):
        raise InputError('what does not train runs alone, without +')
    check_together(opts)
    opt = opts[0]
    processes.choose_gpus(opt.gpu_id)
    if opt.ngpu > 1 and not processes.launched():
        return processes.launch(opt.ngpu, script, argv)
    device = [set_up(opt) for opt in opts][0]
    if do := instead(opt):
        do(opt, device)
    else:
        train(opts, device, prepare, exported, afterwards)
    processes.disconnect()


def split_at_plus(words):
    """The words between those that are '+'."""
    parts = [[]]
    for word in words:
        if word == '+':
            parts.append([])
        else:
            parts[-1].append(word)
    if len(parts) > 1 and [] in parts:
        raise InputError('there is a + without the flags of a run on both sides')
    return parts


# options that runs side by side share
SHARED = ('dataset', 'dataroot', 'imagenetpath', 'domain', 'target', 'per_class', 'fraction',
          'batch_size', 'epochs', 'iterations', 'epoch_steps', 'validate', 'size', 'ngpu', 'gpu_id',
          'deterministic', 'no_graph', 'nthread', 'skip_broken')


def check_together(opts):
    """Refuse runs that cannot be trained side by side."""
    if len(opts) == 1:
        return
    for name in SHARED:
        values = [getattr(opt, name, None) for opt in opts]
        if any(v != values[0] for v in values):
            raise InputError(f'runs side by side share --{name}; here it is '
                             f'{", ".join(map(str, dict.fromkeys(values)))}. Each part has all '
                             f'of its flags')
    if opts[0].ngpu > 1 or processes.launched():
        raise InputError('runs side by side share one process: leave --ngpu and torchrun out')
    folders = [os.path.realpath(opt.save) for opt in opts]
    for folder in folders:
        if folders.count(folder) > 1:
            raise InputError(f'two runs have the folder {folder}: give each its own --save')


def train(opts, device, prepare, exported, afterwards):
    """Lock the folders of runs, find what there is to go on from, train what is missing, finish."""
    found = [prepare(opt, device) for opt in opts]
    with contextlib.ExitStack() as stack:
        for opt in opts if processes.is_first() else ():
            stack.enter_context(runs.lock(opt.save))
        trainings = {}
        for opt, make in zip(opts, found, strict=True):
            checkpoint, lines = processes.from_first(lambda opt=opt: runs.previous(opt))
            if not checkpoint or checkpoint['epoch'] < opt.epochs:
                trainings[opt.save] = make(checkpoint, lines)
            elif processes.is_first():      # cut off, it may lack the line of the last epoch
                runs.write_log(pathlib.Path(opt.save, 'log.txt'), lines)
        left = list(trainings.values())
        if left:
            fit(left, device)
        for opt in opts:
            if opt.save in trainings and not trainings[opt.save].is_done:
                continue
            if processes.is_first():
                finish(opt, lambda params, opt=opt: exported(opt, params))
                afterwards(opt, device)
    failed = [t for t in left if t.failure]
    if len(opts) == 1 and failed:
        raise RunError(failed[0].failure)
    if failed:
        raise RunError('failed: ' + ', '.join(str(t.folder) for t in failed))
    if any(not t.is_done for t in left):
        print('the time is up; the same command continues')


def fit(trainings, device):
    """`loop.fit`, which says on Ctrl-C what the same command would do. Runs that fail in their
    first step, say for want of memory, leave no log behind."""
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
    """What is left to do when a run has all of its epochs: the curves, and --export of what
    `exported` makes of the net."""
    folder = pathlib.Path(opt.save)
    last = runs.read_log(folder / 'log.txt')[-1]
    print(f'{folder} is finished: {last["epoch"]} epoch{"s" * (last["epoch"] > 1)}, '
          f'{loop.tested_on(last)} error {100 - last["test_acc"]:.2f} %')
    plots.plot_curves({folder.name: folder / 'log.txt'}, folder / 'curves.png')
    if opt.export:
        store.write(exported(store.read(folder / 'model.pt7')), opt.export)
        print(f'wrote {opt.export}')


def keep_memory():
    """Let glibc keep what is freed: giving the activations of each step back to the kernel and
    faulting them in again can cost time on a CPU (`bench.py cifar --ablate` says how much)."""
    if platform.libc_ver()[0] == 'glibc':
        mallopt, mmap_max, trim_threshold = ctypes.CDLL(None).mallopt, -4, -1   # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2 ** 31 - 1)


def computes_bfloat16(device):
    """Whether the device has instructions for bfloat16 products."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(re.search(r'\b(avx512_bf16|amx_bf16|bf16)\b', runs.cpuinfo()))


# what no code can help: disks that are full, broken or not to be written on, too many open files
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE,
                  errno.ENOMEM}


def message_of(e):
    """What an error says to the user; '' for one that is a fault of the code."""
    if isinstance(e, (InputError, RunError)):
        return str(e)
    if isinstance(e, OSError) and e.errno in OF_THE_MACHINE:
        return f'{e.strerror}: {e.filename or "what is printed, perhaps, cannot be written"}'
    text = str(e).partition('\n')[0]
    if isinstance(e, (MemoryError, torch.OutOfMemoryError)) or any(
            k in text for k in ("can't allocate memory", 'calculation overflowed')):
        return f'not enough memory: choose a smaller net, batch or image ({text})'
    if 'does not have a deterministic implementation' in text:
        return f'--deterministic cannot be had here: {text.partition(",")[0]}. Leave it out'
    return ''


def end_output():
    """Let what is still printed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


QUIET = 'INTERRUPTED_QUIETLY'       # set by a process that says itself that it was interrupted


def run(main):
    """Call main() and end the process: 0 done, 2 bad input, 1 failure while running (each one
    line, no traceback), 130 interrupted."""
    status = 0
    interrupts.catch()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(AttributeError):       # of what a notebook has in its place
            stream.reconfigure(errors='backslashreplace')       # names of files that are not UTF-8
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:     # what reads our output has enough of it, as head does
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
