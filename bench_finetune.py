"""A step of fine-tuning with each regulariser against plain fine-tuning, on random images.

    python bench.py finetune

Each method has a process of its own, with its source, attention and weights; they take turns, and
medians over the turns are printed. Channel weights of DELTA are uniform; to compute them is work of
once.

    images/s   of steps on one batch
    times      what a step takes, in steps of plain fine-tuning (l2) in the same round
    MB         peak memory of the process, or of the GPU

Then inference of each net with half and a quarter of its multiply-adds, channels being removed at
random, and the same with multiples of --round_channels; turns of one process.

    times      images/s, in those of the whole net in the same round
    narrow     sets of channels of which fewer than 8 are left, of how many
"""
import multiprocessing
from contextlib import suppress
from operator import truediv
from statistics import median

import torch

import channels
import finetune
import nets
import prune
import runs
import training
import transfer
from timing import DEVICE, ask, peak_memory, seconds
from utils import InputError

CLASSES = 31
METHODS = ('l2', 'l2_sp', 'feature_map', 'delta', 'afd', 'ast', 'act')


def step(bench, net, method):
    """One step of training.fit, on one batch."""
    flags = ['--channel_weights', 'uniform'] if method == 'delta' else []
    opt = finetune.parse(['--source', 'none', '--method', method, '--dtype', bench.dtype, '--lr',
                          '1e-6', *flags])
    training.set_up(opt)
    f, start = nets.new_net(net, CLASSES)
    head = nets.head_of(start)
    f_t, layers, params = finetune.assemble(opt, f, start, head, bench.size, 'torchvision', DEVICE)
    if method == 'delta':
        counts = {k: len(params.get(f'student.{k}', params.get(f'student.{k}.weight')))
                  for k in layers}
        params |= {f'teacher.channel_weights.{k}': torch.full((n,), 1 / n, device=DEVICE)
                   for k, n in counts.items()}
    objective = transfer.make_objective(opt, f, f_t, layers)
    optimizer = finetune.optimizer_of(head)(opt, params, 1)
    x = torch.randn(bench.batch_size, 3, bench.size, bench.size, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (bench.batch_size,), device=DEVICE)
    alpha = torch.tensor(opt.alpha, device=DEVICE)

    def train():
        optimizer.zero_grad()
        with training.precision(opt, DEVICE):
            loss, _, _ = objective(params, x, y, True, alpha)
        loss.backward()
        optimizer.step()

    return train


def child(conn, *what):
    """Answer what the parent asks of one method, until it hangs up."""
    f = step(*what)
    answers = {'time': lambda n: seconds(f, n), 'memory': lambda n: peak_memory()}
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            what, n = conn.recv()
            conn.send(answers[what](n))


def measure(bench, net):
    """Rounds in which all methods take their turns -> {method: (seconds of a turn's steps, MB)}."""
    context, conns = multiprocessing.get_context('spawn'), {}
    turns = {method: [] for method in METHODS}
    try:
        for method in METHODS:
            conns[method], other = context.Pipe()
            context.Process(target=child, args=(other, bench, net, method)).start()
            other.close()
            ask(conns[method], 'time')
        for _ in range(bench.rounds):
            for method, conn in conns.items():
                turns[method].append(ask(conn, 'time', bench.steps))
        return {k: (turns[k], ask(conn, 'memory')) for k, conn in conns.items()}
    finally:
        for conn in conns.values():
            conn.close()
        for process in multiprocessing.active_children():
            process.join()


def smaller(bench, f, params):
    """The net and smaller ones, {(part of the multiply-adds, multiple of channels): params}."""
    scores, found = channels.by_chance(params, 0), {(1, 1): params}
    for part in (.5, .25):
        for multiple in (1, bench.round_channels):
            try:
                keep = channels.to_target(f, params, scores, bench.size, part, multiple)
                found[part, multiple] = channels.cut(params, keep)
            except InputError as e:
                print(e)
    return found


def inference(bench, net):
    """Print the speed of a net with fewer channels."""
    opt = finetune.parse(['--source', 'none', '--dtype', bench.dtype])
    training.set_up(opt)
    f, params = nets.new_net(net, CLASSES)
    found = smaller(bench, f, params)
    speeds = prune.speeds(opt, DEVICE, f, found, bench.size, bench.batch_size, bench.rounds,
                          bench.steps)
    whole = prune.size_of(f, params, bench.size)[1]
    for (part, multiple), v in found.items():
        widths = [len(v[channels.weight_of(v, conv)]) for conv in channels.inner(v)]
        times = median(map(truediv, speeds[part, multiple], speeds[1, 1]))
        print(f'{net:<13}{prune.size_of(f, v, bench.size)[1] / whole:14.3f}{multiple:14}'
              f'{median(speeds[part, multiple]):10.1f}{times:7.2f}'
              f'{sum(n < 8 for n in widths):6} of {len(widths)}', flush=True)


def run(bench):
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}; {bench.dtype}; batch '
          f'{bench.batch_size} of {bench.size}x{bench.size}, {bench.rounds} rounds of '
          f'{bench.steps} steps')
    print('net          method         images/s  times      MB')
    for net in bench.nets:
        found = measure(bench, net)
        for method, (times, memory) in found.items():
            ratio = median(map(truediv, times, found['l2'][0]))
            print(f'{net:<13}{method:<12}{bench.batch_size / median(times):11.1f}{ratio:7.2f}'
                  f'{memory:8.0f}', flush=True)
    print('net            multiply-adds  multiples of  images/s  times   narrow')
    for net in bench.nets:
        inference(bench, net)
