"""A step of fine-tuning with each regulariser against plain fine-tuning, on random images.

    python bench.py finetune

Each method has a process of its own, with its source, attention and weights; they take turns, and
medians over the turns are printed. Channel weights of DELTA are uniform; to compute them is work of
once.

    images/s   of steps on one batch, on a GPU as CUDA graphs
    times      what a step takes, in steps of plain fine-tuning (l2) in the same round
    MB         peak memory of the process, or of the GPU

Then inference of each net with half and a quarter of its multiply-adds, channels being removed at
random, and the same with multiples of --round_channels; turns of one process.

    times      images/s, in those of the whole net in the same round
    narrow     sets of channels of which fewer than 8 are left, of how many
"""
from functools import partial
from operator import truediv
from statistics import median

import torch

import finetune
import nets
from engine import clock, loop, measuring, runs, script, step
from engine.clock import DEVICE
from methods import channels, losses, pruning
from utils import InputError
from weights.architecture import architecture_of

CLASSES = 31
METHODS = ('l2', 'l2_sp', 'feature_map', 'delta', 'afd', 'ast', 'act')
STEPS = [('net', '<13'), ('method', '<12'), ('images/s', '>11.1f'), ('times', '>7.2f'),
         ('MB', '>8.0f')]
INFERENCE = [('net', '<13'), ('multiply-adds', '>14.3f'), ('multiples of', '>14'),
             ('images/s', '>10.1f'), ('times', '>7.2f'), ('narrow', '>9')]


def check_nets(bench):
    """Refuse names of no net."""
    for net in bench.nets:
        try:
            nets.new_net(net, CLASSES)
        except InputError as e:
            raise InputError(f'--nets {net}: {str(e).split(": ")[-1]}') from None


def step_of(bench, net, method):
    """{'step': one of finetune.py, on one batch}."""
    flags = ['--channel_weights', 'uniform'] if method == 'delta' else []
    opt = finetune.parse(['--source', 'none', '--method', method, '--dtype', bench.dtype, '--lr',
                          '1e-6', *flags])
    script.set_up(opt)
    f, start = nets.new_net(net, CLASSES)
    head, generator = architecture_of(start).head, torch.Generator()
    f_t, layers, params = finetune.assemble(opt, f, start, head, bench.size, 'torchvision', DEVICE,
                                            generator)
    if method == 'delta':
        counts = {k: len(params.get(f'student.{k}', params.get(f'student.{k}.weight')))
                  for k in layers}
        params |= {f'teacher.channel_weights.{k}': torch.full((n,), 1 / n, device=DEVICE)
                   for k, n in counts.items()}
    objective = losses.make_objective(opt, f, f_t, layers, [(opt.method, None)])
    state = step.new_state(objective, params, opt.dtype,
                           groups=finetune.groups_of(opt, params, head))
    x = torch.randn(bench.batch_size, 3, bench.size, bench.size, device=DEVICE)
    images = measuring.one_batch(x.contiguous(memory_format=torch.channels_last),
                                 torch.randint(CLASSES, (bench.batch_size,), device=DEVICE))
    t = loop.Training(opt, state, images, images, CLASSES, generator,
                      weight=lambda epoch: opt.alpha, rate=lambda epoch, step: opt.lr)
    return {'step': measuring.steps([t], measuring.taker())}


def step_rows(bench):
    """Of the steps of all methods, which take turns."""
    for net in bench.nets:
        jobs = {method: (bench, net, method) for method in METHODS}
        with measuring.children(step_of, jobs) as ask:
            found = clock.turns({k: partial(ask, k, clock.seconds, 'step') for k in METHODS},
                                bench.rounds, bench.steps, lambda clock, n: clock(n))
            for method, times in found.items():
                speed, ratio = measuring.compared(times, found['l2'], bench.batch_size)
                yield net, method, speed, 1 / ratio, ask(method, clock.peak_memory)


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


def inference_rows(bench):
    """Of the speed of nets with fewer channels."""
    for net in bench.nets:
        opt = finetune.parse(['--source', 'none', '--dtype', bench.dtype])
        script.set_up(opt)
        f, params = nets.new_net(net, CLASSES)
        found = smaller(bench, f, params)
        speeds = pruning.speeds(opt, DEVICE, f, found, bench.size, bench.batch_size, bench.rounds,
                                bench.steps)
        whole = pruning.size_of(f, params, bench.size)[1]
        for (part, multiple), v in found.items():
            widths = [len(v[channels.weight_of(v, conv)]) for conv in architecture_of(v).channels]
            yield (net, pruning.size_of(f, v, bench.size)[1] / whole, multiple,
                   median(speeds[part, multiple]),
                   median(map(truediv, speeds[part, multiple], speeds[1, 1])),
                   f'{sum(n < 8 for n in widths)} of {len(widths)}')


def run(bench):
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}; {bench.dtype}; batch '
          f'{bench.batch_size} of {bench.size}x{bench.size}, {bench.rounds} rounds of '
          f'{bench.steps} steps')
    measuring.table(STEPS, step_rows(bench))
    measuring.table(INFERENCE, inference_rows(bench))
