"""What the benches share: a clock for a CPU or a GPU, what the machine can do at best, steps as the
training loop takes them, processes that take turns, tables."""
import contextlib
import multiprocessing
import re
import time
from itertools import chain, repeat
from operator import truediv
from statistics import median

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import data
import distill
import graphs
import loop
from utils import InputError, RunError

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')


# ---- measuring ----------------------------------------------------------------------------------

def seconds(f, n, discard=1):
    """Per call of f, after calls that do not count: workers prefetch while they wait."""
    marks = []
    for times in (discard, n):
        for _ in range(times):
            f()
        if CUDA:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return (marks[1] - marks[0]) / n


def turns(functions, rounds, n, clock=seconds):
    """What clock(f, n) gives, by default seconds per call, of {name: function}, which take turns:
    {name: [in each round]}."""
    found = {name: [] for name in functions}
    for _ in range(rounds):
        for name, f in functions.items():
            found[name].append(clock(f, n))
    return found


def compared(times, first, images):
    """Images/s of a way whose steps took so many seconds in each round, and the ratio to the
    `first` way; medians over the rounds."""
    return images / median(times), median(map(truediv, first, times))


def flop(f):
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


def peak_memory():
    """MB of the process; of the GPU, what was in use at most, or what graphs keep, if that is
    more."""
    if CUDA:
        torch.cuda.empty_cache()
        return max(torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()) / 2 ** 20
    with open('/proc/self/status') as f:
        return int(re.search(r'VmHWM:\s*(\d+)', f.read())[1]) / 1024


def idle(f, n):
    """'12 %' of the time in which no kernel runs; '-' without a GPU."""
    if not CUDA:
        return '-'
    wall = seconds(f, n) * n        # without the profiler, which costs time itself
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        seconds(f, n, 0)
    busy = covered((e.time_range.start, e.time_range.end) for e in p.events()
                   if e.device_type == torch.autograd.DeviceType.CUDA) / 1e6
    return f'{100 - 100 * busy / wall:.0f} %'


def covered(spans):
    """The length of all spans (start, end) together: kernels of several streams overlap."""
    total, until = 0, float('-inf')
    for start, end in sorted(spans):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def peak(dtype):
    """FLOP/s of a large matrix product or a large convolution, whichever is faster."""
    k = 4 if CUDA else 1
    a, x, w = (torch.randn(shape, device=DEVICE, dtype=dtype) for shape in (
        (2048 * k, 2048 * k), (128, 128 * k, 16, 16), (128 * k, 128 * k, 3, 3)))
    x, w = (v.contiguous(memory_format=torch.channels_last) for v in (x, w))
    return max(flop(f) / min(seconds(f, 1) for _ in range(5))
               for f in (lambda: a @ a, lambda: F.conv2d(x, w, padding=1)))


# ---- steps --------------------------------------------------------------------------------------

def new_training(opt, student, teacher, images, size, layout=torch.channels_last):
    """The `loop.Training` of a net (f, params), alone (None) or from a teacher, that cifar.py and
    imagenet.py have; if need be in another memory format. There is nothing to test on."""
    def make(*batch):
        inputs, targets = images.make(*batch)
        return inputs.contiguous(memory_format=layout), targets

    untested = data.Images(1, lambda generator: (), None, [])
    with contextlib.redirect_stdout(None):      # the teacher's error, on those images
        t = distill.prepare(opt, DEVICE, None, [], lambda: student, teacher and ('', *teacher),
                            images._replace(make=make), untested, 0, size)
    for v in (*t.state.params.values(), *t.state.momenta.values()):
        v.data = v.data.contiguous(memory_format=layout) if v.ndim == 4 else v.data
    return t


def one_batch(inputs, targets):
    """`data.Images` of a batch that stays where it is."""
    n = len(targets)
    return data.Images(n, lambda generator: ((n,),), lambda size: (inputs, targets), [])


def taker(graph=CUDA):
    """What takes steps: as CUDA graphs, or as they are."""
    return graphs.captured(DEVICE) if graph else graphs.in_turn


def steps(trainings, take):
    """A function of no arguments: the next step of each `loop.Training`, at once; `take`: of
    `taker`."""
    def batches(t):
        loop.begin_epoch(t)
        return chain.from_iterable(t.train.epoch(t.generator) for _ in repeat(None))

    pairs = [(t.tasks['train'], batches(t)) for t in trainings]
    return lambda: take([(task, next(its)) for task, its in pairs])


# ---- processes that take turns ------------------------------------------------------------------

def serve(conn, make, what):
    """Say what is wrong with the input, or None; answer what `children` asks of the functions
    make(*what), until it hangs up."""
    try:
        functions = make(*what)
    except InputError as e:
        return conn.send(e)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        conn.send(None)
        while True:
            clock, *rest = conn.recv()
            conn.send(clock(*(functions.get(v, v) for v in rest)))


@contextlib.contextmanager
def children(make, jobs):
    """A process for each of `jobs`, {name: arguments of make}, with memory and allocator of its own
    -> ask(name, clock, *arguments), which calls `clock` there. Arguments that are keys of what
    `make` gives, {key: function}, stand for the function."""
    context, conns = multiprocessing.get_context('spawn'), {}

    def ask(name, *what):
        try:
            if what:
                conns[name].send(what)
            return conns[name].recv()
        except (EOFError, OSError):
            raise RunError('a measuring process ended; what it said stands above') from None

    try:
        for name, what in jobs.items():
            conns[name], other = context.Pipe()
            context.Process(target=serve, args=(other, make, what)).start()
            other.close()
        for name in jobs:       # until all are there
            if error := ask(name):
                raise error
        yield ask
    finally:
        for conn in conns.values():
            conn.close()
        for process in multiprocessing.active_children():
            process.join()


def table(columns, rows):
    """Print rows as they come, under the titles of the columns, [(title, format)]; of a row that is
    longer than those, the beginning."""
    print(''.join(format(title, form.split('.')[0]) for title, form in columns))
    for row in rows:
        print(''.join(format(v, form) for v, (_, form) in zip(row, columns, strict=False)),
              flush=True)
