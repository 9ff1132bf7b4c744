"""A clock for a CPU or a GPU, what the machine can do at best, and processes that take turns."""
import contextlib
import multiprocessing
import re
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

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
    """Count the floating-point operations of products and convolutions in a call of f."""
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
        raise RunError('a measuring process ended; what it said stands above') from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
