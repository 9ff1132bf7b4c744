"""Several processes, each with its share of every batch.

torch's launcher (torchrun) starts them, or --ngpu through the same. Each computes the gradients of
its share, of which all take the mean.

One process is the special case: every function here then gives its argument back. The first process
alone prints and saves.
"""
import contextlib
import datetime
import gc
import json
import logging
import os
import pathlib
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.rendezvous import rendezvous

from utils import InputError, RunError, is_statistic

LISTENS = 'LAUNCHER_LISTENS'    # set by `launch` for the processes that it starts
PATIENCE = 3    # seconds for which the other processes leave it to the first to say what is wrong


def launched():
    """Whether torchrun, or one that speaks like it, has started this process."""
    return {'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'} <= set(os.environ)


def is_first():
    """Whether this process is the one that prints and saves."""
    return not launched() or os.environ['RANK'] == '0'


def rank():
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def choose_gpus(gpu_id):
    """Apply --gpu_id, if that is this process's business."""
    if gpu_id and not launched():
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu_id


def launch(n, script, argv=None):
    """Run `script` with its arguments in n processes on this machine. Raises what the first process
    that fails has said, an InputError or a RunError, or exits as it did."""
    gpus = torch.cuda.device_count()
    if 0 < gpus < n:
        raise InputError(f'--ngpu {n}: {gpus} GPUs are visible')
    before = dict(os.environ)       # torchrun sets the number of threads, which is theirs alone
    if not gpus:
        print(f'no GPU: {n} processes on the CPU, which speak by gloo', flush=True)
        os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // n)))
    # the failed process has said in a line what torch would say in thirty
    logging.disable(logging.ERROR)
    os.environ[LISTENS] = '1'
    argv = sys.argv[1:] if argv is None else argv
    try:
        torchrun.run(torchrun.parse_args(['--standalone', f'--nproc_per_node={n}',
                                          os.path.abspath(script), *argv]))
    except ChildFailedError as e:
        number, failure = e.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(f'process {number} was killed by signal {-failure.exitcode} (for want '
                           f'of memory, perhaps)') from None
        if os.path.isfile(failure.error_file):      # written by `say`
            raise (InputError if failure.exitcode == 2 else RunError)(failure.message) from None
        sys.exit(failure.exitcode)      # its traceback has said why
    except SignalException as e:
        sys.exit(128 + e.sigval)
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def connect():
    """Join the other processes, if torchrun has started this one -> the device of this one."""
    cuda = torch.cuda.is_available()
    if launched() and not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        # the others wait while the first one downloads, or writes a --cache of hours
        wait = datetime.timedelta(days=2)
        store, number, processes = next(rendezvous('env://'))
        if os.environ.get('GROUP_WORLD_SIZE') == '1':
            # torchrun keeps its store when it restarts us, with the addresses of the processes that
            # are gone (pytorch/pytorch#135712). Machines count their restarts each for itself, so
            # that for several of them this is no remedy; docs/runs.md has one.
            store = dist.PrefixStore(os.environ.get('TORCHELASTIC_RESTART_COUNT', ''), store)
        dist.init_process_group('nccl' if cuda else 'gloo', timeout=wait, store=store, rank=number,
                                world_size=processes)
        if not is_first():
            sys.stdout = open(os.devnull, 'w', errors='ignore')
    return torch.device('cuda', torch.cuda.current_device()) if cuda else torch.device('cpu')


def disconnect():
    """Leave the other processes, when all are done."""
    if dist.is_initialized():
        dist.barrier()
        leave()


def leave():
    """Leave the other processes, whatever they do.

    gloo's threads have to end here: one that still tidied up while the interpreter ends would abort
    the process. They do when nothing refers to the group any more: DistributedDataParallel, in
    cycles of references, and functions of torch.distributed.nn, which it imports, with the group
    there was at that time as a default: so it is imported above, when there is none."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def say(error):
    """Say why this process ends: to `launch`, if that has started it, which says what the first of
    the processes to fail has said; else on the screen. The same error befalls all processes more
    often than not: under torchrun the others leave it to the first one, with which they end."""
    if LISTENS in os.environ and launched():
        said = json.dumps({'message': str(error), 'timestamp': str(int(time.time()))})
        pathlib.Path(os.environ['TORCHELASTIC_ERROR_FILE']).write_text(said)
    else:
        if not is_first():
            time.sleep(PATIENCE)
        print(f'error: {error}', file=sys.stderr)


def from_first(make):
    """Call make() in the first process -> its result, in all processes."""
    box = [make() if is_first() else None]
    if world() > 1:
        dist.broadcast_object_list(box)
    return box[0]


@contextlib.contextmanager
def first_alone():
    """Let the first process of each machine run the block before the others: downloads, caches."""
    waits = world() > 1
    if waits and os.environ['LOCAL_RANK'] != '0':
        dist.barrier()
    yield
    if waits and os.environ['LOCAL_RANK'] == '0':
        dist.barrier()


def shard(x, even=False):
    """This process's share of a tensor or array: every world-th entry along the first dimension.
    `even` gives all processes as many, the first entries once more where that does not come out
    even."""
    if even:
        each = -(-len(x) // world())
        x = torch.cat([x] * world())[:each * world()]
    return x[rank()::world()]


def total(x):
    """The sum of a tensor over the processes."""
    x = x.clone()
    if world() > 1:
        dist.all_reduce(x)
    return x


def share_statistics(params):
    """Give all processes the first one's running statistics, in place: those are saved, and so they
    are tested."""
    if world() > 1:
        for k, v in params.items():
            if is_statistic(k):
                dist.broadcast(v, 0)


def averaged(gradients):
    """The mean over the processes of {name: gradient, or None for what has none}."""
    if world() == 1:
        return gradients
    there = [k for k, g in gradients.items() if g is not None]
    flat = torch.cat([gradients[k].flatten() for k in there])
    dist.all_reduce(flat)
    parts = (flat / world()).split([gradients[k].numel() for k in there])
    return gradients | {k: part.view(gradients[k].shape)
                        for k, part in zip(there, parts, strict=True)}
