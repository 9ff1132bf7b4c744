"""What the benches share: steps as the training loop takes them, processes that take turns, tables.
"""
import contextlib
import multiprocessing
from itertools import chain, repeat
from operator import truediv
from statistics import median

import torch

from data import arrays
from engine import clock, graphs, loop
from utils import InputError, RunError


def compared(times, first, images):
    """Images/s of a way whose steps took so many seconds in each round, and the ratio to the
    `first` way; medians over the rounds."""
    return images / median(times), median(map(truediv, first, times))


# ---- steps --------------------------------------------------------------------------------------

def new_training(prepare, opt, student, teacher, images, size, layout=torch.channels_last):
    """The `loop.Training` of a net (f, params), alone (None) or from a teacher, that cifar.py and
    imagenet.py have, by their `prepare`; if need be in another memory format. There is nothing to
    test on."""
    def make(*batch):
        inputs, targets = images.make(*batch)
        return inputs.contiguous(memory_format=layout), targets

    untested = arrays.Images(1, lambda generator: (), None, [])
    with contextlib.redirect_stdout(None):      # the teacher's error, on those images
        t = prepare(opt, clock.DEVICE, None, [], lambda: student, teacher and ('', *teacher),
                    images._replace(make=make), untested, 0, size)
    for v in (*t.state.params.values(), *t.state.momenta.values()):
        v.data = v.data.contiguous(memory_format=layout) if v.ndim == 4 else v.data
    return t


def one_batch(inputs, targets):
    """`data.Images` of a batch that stays where it is."""
    n = len(targets)
    return arrays.Images(n, lambda generator: ((n,),), lambda size: (inputs, targets), [])


def taker(graph=clock.CUDA):
    """What takes steps: as CUDA graphs, or as they are."""
    return graphs.captured(clock.DEVICE) if graph else graphs.in_turn


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
