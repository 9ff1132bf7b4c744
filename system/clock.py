"""A clock for a CPU or a GPU, what the machine can do at best, processes that take turns, and the
table of what they took."""
import contextlib
import multiprocessing
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from operator import truediv
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils import RunError

# ---- what is measured of a function -------------------------------------------------------------

def seconds(f, n, discard=1):
    """Measure the seconds that a call of f takes: the mean of n calls, after `discard` others,
    since workers prefetch while they wait."""
    marks = []
    for times in (discard, n):
        for _ in range(times):
            f()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())
    return (marks[1] - marks[0]) / n


def turns(functions, rounds):
    """Call functions {name: function} in turn, in rounds -> {name: [result of each round]}."""
    found = [{name: f() for name, f in functions.items()} for _ in range(rounds)]
    return {name: [one[name] for one in found] for name in functions}


def flop(f):
    """Count the floating-point operations of matrix products and convolutions in a call of f."""
    with FlopCounterMode(display=False) as counter:
        f()
    return counter.get_total_flops()


def peak_memory(f):
    """Return the peak memory of the process, which has called f, in MB; on a GPU the peak of the
    GPU's: the most that was in use, or what graphs keep, if that is more."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        return max(torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()) / 2 ** 20
    with open('/proc/self/status') as status:
        return int(re.search(r'VmHWM:\s*(\d+)', status.read())[1]) / 1024


def covered(spans):
    """Return the length of the union of spans (start, end), which may overlap."""
    total, until = 0, float('-inf')
    for start, end in sorted(spans):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def idle(f, n):
    """Measure the share of time without a kernel at work, as text: '12 %', or '-' without a GPU."""
    if not torch.cuda.is_available():
        return '-'
    wall = seconds(f, n) * n        # without the profiler, which costs time itself
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        seconds(f, n, 0)
    busy = covered((e.time_range.start, e.time_range.end) for e in p.events()
                   if e.device_type == torch.autograd.DeviceType.CUDA) / 1e6
    return f'{100 - 100 * busy / wall:.0f} %'


def peak(dtype):
    """Measure the FLOP/s of a large matrix product or a large convolution, whichever is faster."""
    device, k = ('cuda', 4) if torch.cuda.is_available() else ('cpu', 1)
    a, x, w = (torch.randn(shape, device=device, dtype=dtype) for shape in (
        (2048 * k, 2048 * k), (128, 128 * k, 16, 16), (128 * k, 128 * k, 3, 3)))
    x, w = (v.contiguous(memory_format=torch.channels_last) for v in (x, w))
    return max(flop(f) / min(seconds(f, 1) for _ in range(5))
               for f in (lambda: a @ a, lambda: F.conv2d(x, w, padding=1)))


# ---- processes that take turns ------------------------------------------------------------------

MADE = []       # in a process of `children`: the function that it measures


def make_here(make):
    """Keep what make() returns, in a process of `children`."""
    MADE.append(make())


def measure_here(measure, *args):
    """Call `measure` of what this process of `children` has made."""
    return measure(MADE[0], *args)


@contextlib.contextmanager
def children(jobs):
    """Start a process, with memory of its own, for each of `jobs`, {name: function that makes what
    is measured} -> ask(name, measure, *args), which returns measure(what was made, *args) of that
    process. What it raises there is raised here; RunError, if a process dies."""
    spawn = multiprocessing.get_context('spawn')
    pools = {name: ProcessPoolExecutor(1, spawn) for name in jobs}

    def ask(name, *what):
        return pools[name].submit(measure_here, *what).result()

    try:
        here = signal.signal(signal.SIGINT, signal.SIG_IGN)     # as processes that start now do
        begun = [pools[name].submit(make_here, make) for name, make in jobs.items()]
        signal.signal(signal.SIGINT, here)
        for future in begun:
            future.result()
        yield ask
    except BrokenProcessPool:
        raise RunError('a measuring process died; its message is above') from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


# ---- ways to do the same ------------------------------------------------------------------------

class Way(NamedTuple):
    """One way to do a case: make() gives a function of no arguments, which a process of its own
    calls: a step on `images` images, in `dtype` ('' for no comparison with the machine's best),
    whose data are prefetched by `workers` workers."""
    make: Callable
    images: int
    dtype: str = ''
    workers: int = 0


def measure(cases, rounds, steps, batch_size):
    """Measure all ways of the cases, {case: {name: Way}}, in rounds of so many steps, in which they
    take turns; yield rows of the table, {title of the column: text}. `batch_size`: that of a run.
    """
    jobs = {(case, name): way for case, ways in cases.items() for name, way in ways.items()}
    dtypes = {way.dtype for way in jobs.values()} - {''}
    with children({job: way.make for job, way in jobs.items()}) as ask:
        found = turns({
            **{job: partial(ask, job, seconds, steps, 2 * way.workers + 1)
               for job, way in jobs.items()},       # workers prefetch
            **{k: partial(peak, getattr(torch, k)) for k in dtypes}}, rounds)
        speeds = {job: [way.images / t for t in found[job]] for job, way in jobs.items()}
        for (case, name), way in jobs.items():
            job, first = (case, name), (case, next(iter(cases[case])))
            speed = median(speeds[job])
            row = {'case': case, 'way': name, 'images/s': f'{speed:.1f}',
                   'ratio': f'{median(map(truediv, speeds[job], speeds[first])):.2f}',
                   'MB': f'{ask(job, peak_memory):.0f}', 'idle': ask(job, idle, 5),
                   'ms': f'{1e3 * batch_size / speed:.2f}'}
            if way.dtype:
                operations = ask(first, flop)
                part = operations * speed / batch_size / max(found[way.dtype])
                row |= {'GFLOP': f'{operations / 1e9:.1f}', 'of peak': f'{100 * part:.1f} %'}
            yield row


COLUMNS = {'case': '<24', 'way': '<25', 'images/s': '>9', 'ratio': '>7', 'GFLOP': '>8',
           'of peak': '>9', 'MB': '>7', 'idle': '>6', 'ms': '>9'}


def print_row(row):
    """Print a row {title of the column: text} of the table."""
    print(''.join(f'{row.get(k, "-"):{width}}' for k, width in COLUMNS.items()), flush=True)
