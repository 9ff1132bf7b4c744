"""Several processes, each with its share of every batch.

torch's launcher (torchrun) starts them, or --ngpu does so through it. Each computes the gradients
of its share, and all take their mean. One process is a special case: the functions here then return
what they are given. The first process alone prints and saves.
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
PATIENCE = 3    # seconds in which other processes let the first one say what is wrong


def launched():
    """Return whether torchrun, or a launcher like it, has started this process."""
    return {'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'} <= set(os.environ)


def is_first():
    """Return whether this process is the one that prints and saves."""
    return not launched() or os.environ['RANK'] == '0'


def world():
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def choose_gpus(gpu_id):
    """Make the GPUs of --gpu_id the visible ones, unless a launcher has chosen for this process."""
    if gpu_id and not launched():
        os.environ['CUDA_VISIBLE_DEVICES'] = gpu_id


def launch(n, script, argv):
    """Run `script` with its arguments in n processes on this machine. The InputError or RunError of
    the first process to fail is raised here; after any other error, exit as that process did."""
    gpus = torch.cuda.device_count()
    if 0 < gpus < n:
        raise InputError(f'--ngpu {n}: {gpus} GPUs are visible')
    before = dict(os.environ)       # the number of threads, which torchrun sets, is theirs alone
    if not gpus:
        print(f'no GPU: {n} processes on the CPU, connected by gloo', flush=True)
        os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // n)))
    # a process that fails has said in a line what torch would say in thirty
    logging.disable(logging.ERROR)
    os.environ[LISTENS] = '1'
    try:
        torchrun.run(torchrun.parse_args(['--standalone', f'--nproc_per_node={n}',
                                          os.path.abspath(script), *argv]))
    except ChildFailedError as e:
        number, failure = e.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(f'process {number} was killed by signal {-failure.exitcode} (perhaps '
                           f'because memory ran out)') from None
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
    """Join the other processes, if torchrun has started this one -> this process's device."""
    cuda = torch.cuda.is_available()
    if launched() and not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        # the others wait while the first one downloads, or writes a --cache for hours
        wait = datetime.timedelta(days=2)
        store, number, processes = next(rendezvous('env://'))
        if os.environ.get('GROUP_WORLD_SIZE') == '1':
            # when torchrun restarts us, its store still has the addresses of the processes that are
            # gone (pytorch/pytorch#135712). Each machine counts its own restarts, so this is no
            # remedy for several machines; docs/runs.md has one.
            store = dist.PrefixStore(os.environ.get('TORCHELASTIC_RESTART_COUNT', ''), store)
        dist.init_process_group('nccl' if cuda else 'gloo', timeout=wait, store=store, rank=number,
                                world_size=processes)
        if not is_first():
            sys.stdout = open(os.devnull, 'w', errors='ignore')
    return torch.device('cuda', torch.cuda.current_device()) if cuda else torch.device('cpu')


def disconnect():
    """Leave the other processes when all of them are done."""
    if dist.is_initialized():
        dist.barrier()
        leave()


def leave():
    """Leave the other processes, whatever they are doing.

    gloo's threads must end here: one still at work while the interpreter ends would abort the
    process. They end when nothing refers to the group any more. DistributedDataParallel does, in
    cycles of references, and so do functions of torch.distributed.nn, which it imports: their
    default is the group at the time of the import. So that is imported above, before any group."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def say(error):
    """Say why this process ends: to `launch`, if that has started it, or else on the screen. Most
    errors befall all processes at once: under torchrun the others wait for the first one to speak,
    and usually end with it."""
    if LISTENS in os.environ and launched():
        said = json.dumps({'message': str(error), 'timestamp': str(int(time.time()))})
        pathlib.Path(os.environ['TORCHELASTIC_ERROR_FILE']).write_text(said)
    else:
        if not is_first():
            time.sleep(PATIENCE)
        print(f'error: {error}', file=sys.stderr)


def from_first(make):
    """Call make() in the first process alone -> its result, in all processes."""
    box = [make() if is_first() else None]
    if world() > 1:
        dist.broadcast_object_list(box)
    return box[0]


@contextlib.contextmanager
def first_alone():
    """Let the first process of each machine run a block before the others do, as for a download."""
    waits = world() > 1
    if waits and os.environ['LOCAL_RANK'] != '0':
        dist.barrier()
    yield
    if waits and os.environ['LOCAL_RANK'] == '0':
        dist.barrier()


def shard(x, even=False):
    """Return this process's share of a tensor: every world-th entry along the first dimension. If
    `even`, all processes get equally many; the first entries then come again to fill up."""
    if world() == 1:
        return x
    if even:
        each = -(-len(x) // world())
        x = torch.cat([x] * world())[:each * world()]
    return x[dist.get_rank()::world()]


def total(x):
    """Return the sum of a tensor over the processes."""
    x = x.clone()
    if world() > 1:
        dist.all_reduce(x)
    return x


def share_statistics(params):
    """Give all processes the first one's running statistics, in place: what is saved is tested."""
    if world() > 1:
        for k, v in params.items():
            if is_statistic(k):
                dist.broadcast(v, 0)


def averaged(gradients):
    """Average gradients, {name: tensor, or None where there is none}, over the processes."""
    if world() == 1:
        return gradients
    there = {k: g for k, g in gradients.items() if g is not None}
    flat = torch.cat([g.flatten() for g in there.values()])
    dist.all_reduce(flat)
    parts = (flat / world()).split([g.numel() for g in there.values()])
    return gradients | {k: part.view(there[k].shape) for k, part in zip(there, parts, strict=True)}
