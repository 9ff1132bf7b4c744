"""Steps as CUDA graphs: captured once for each shape of their batches, then replayed.

A step of a small net is hundreds of kernels of a few microseconds each, which take longer to launch
one by one than to run. Steps of several runs are one graph, in which each run has a stream of its
own, so that they fill the device together.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch

WARM_UP = 3     # steps before a capture, in which cuDNN chooses its algorithms


class Task(NamedTuple):
    """A step of one run: take(size, *tensors) of a batch, which changes the tensors `changes` in
    place."""
    take: Callable
    changes: list


def eager(sample):
    """Take the steps of a sample, [(task, (size, *tensors))], one by one, without graphs."""
    for task, batch in sample:
        task.take(*batch)


def captured(device):
    """Make a function like `eager` that replays graphs, captured when a new kind of sample comes.
    They share streams and memory, in which none of them leaves anything."""
    made, pool = {}, torch.cuda.graph_pool_handle() if device.type == 'cuda' else None

    def replay(sample):
        key = tuple((id(task.take), size, *((t.shape, t.dtype) for t in tensors))
                    for task, (size, *tensors) in sample)
        if key not in made:
            made[key] = prepare_graph(sample, device, pool)
        buffers, graph, _ = made[key]
        for own, (_, (_, *tensors)) in zip(buffers, sample, strict=True):
            for buffer, t in zip(own, tensors, strict=True):
                buffer.copy_(t, non_blocking=True)
        graph()

    return replay


def prepare_graph(sample, device, pool):
    """Capture the graph of a sample -> buffers from which it reads its tensors; the graph, as a
    function; the tasks, so that they live as long. All that the steps change, and the state of the
    device's random numbers, is afterwards as before."""
    buffers = [[t.to(device, copy=True) for t in tensors] for _, (_, *tensors) in sample]
    works = [lambda task=task, size=size, own=own: task.take(size, *own)
             for (task, (size, *_)), own in zip(sample, buffers, strict=True)]
    before = [(t, t.detach().clone()) for task, _ in sample for t in task.changes]
    random = torch.cuda.get_rng_state(device) if device.type == 'cuda' else None
    for _ in range(WARM_UP):
        for work in works:
            work()
        undo(before)
    if random is not None:
        torch.cuda.set_rng_state(random, device)
    return buffers, capture(works, pool), [task for task, _ in sample]


@torch.no_grad()
def undo(before):
    """Copy their old values back into tensors, [(tensor, value)]."""
    for t, value in before:
        t.copy_(value)


STREAMS = []        # of all graphs: libraries keep memory for each one, for good


def capture(works, pool):
    """Capture the functions `works`, which keep to tensors on the device and were called before, as
    one CUDA graph, each on a stream of its own -> a function that replays it. `pool`: the memory
    that graphs share."""
    graph = torch.cuda.CUDAGraph()
    STREAMS.extend(torch.cuda.Stream() for _ in works[len(STREAMS):])
    torch.cuda.synchronize()
    # the threads of a DataLoader, which pin memory, go on meanwhile
    with torch.cuda.graph(graph, pool, capture_error_mode='thread_local'):
        here, used = torch.cuda.current_stream(), STREAMS[:len(works)]
        for work, stream in zip(works, used, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                work()
        for stream in used:
            here.wait_stream(stream)
    return graph.replay
