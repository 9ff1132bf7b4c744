"""The hot loops against the plain way to do the same, and against the machine's limits.

    python bench.py cifar
    python bench.py imagenet        (bench_imagenet.py says what that is)
    python bench.py finetune        (bench_finetune.py)

Both ways train the same nets on random images; in float, their losses and gradients are equal
(tests/test_bench.py). 'published' does what the paper's code does: float in NCHW, each image
augmented by itself in 4 DataLoader workers, every loss read off the device at each step, errors
counted on the CPU. 'ours' is what training.fit does by default. Each way has a process, memory and
allocator of its own; they take turns, and medians over the turns are printed, because machines
drift.

    images/s   of whole steps, data included; ratio: to the published way in the same round
    no data    the same of steps on one batch that stays where it is
    GFLOP      of products and convolutions in a step; of peak: these per second, against the best
               of a large product and a large convolution in the same dtype, with and without data
    MB         peak memory of the process (less its DataLoader workers), or of the GPU
    idle       part of a whole step's time in which no kernel runs on the GPU
"""
import multiprocessing
import random
import re
import warnings
from contextlib import suppress
from itertools import chain
from operator import truediv
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, default_collate
from torchnet.engine import Engine
from torchnet.meter import AverageValueMeter, ClassErrorMeter

import bench_finetune
import bench_imagenet
import cifar
import data
import datasets
import distill
import runs
import training
from timing import CUDA, DEVICE, ask, flop, idle, peak, peak_memory, seconds
from utils import InputError

PAD, CLASSES = 4, 10
BATCHES = {'cifar': 128, 'imagenet': 32, 'finetune': 16}
OURS = dict(keep_memory=True, layout=torch.channels_last, whole_batch=True, dtype='', compile=False)
ABLATED = {'ours, not keep_memory': dict(keep_memory=False),
           'ours, in NCHW': dict(layout=torch.contiguous_format),
           'ours, in float': dict(dtype='float'),
           'ours, data per image': dict(whole_batch=False)}


def parse(argv):
    parser = training.make_parser(__doc__)
    add = parser.add_argument
    add('loop', choices=['cifar', 'imagenet', 'finetune'], help='which loop')
    add('--cases', nargs='+', default=['16-1', '16-1:16-2', '16-2:40-2'], metavar='CASE',
        help='student or student:teacher (AT+KD), wide residual nets of this depth-width')
    add('--rounds', default=7, type=int, help='turns that each way takes')
    add('--steps', default=10, type=int, help='steps measured in a turn')
    add('--batch_size', default=0, type=int, help='images per step; 0: ' + ', '.join(
        f'{n} of {loop}' for loop, n in BATCHES.items()))
    add('--images', default=0, type=int, help='in the training set; 0: 50000, of imagenet 256')
    add('--nthread', default=4, type=int, help='data-loading workers of the published way')
    add('--dtype', default='auto', choices=['auto', 'float', 'bfloat16'],
        help='of our way; auto as in cifar.py')
    add('--compile', action='store_true', help='our way also as cifar.py --compile does it')
    add('--ablate', action='store_true', help='our way also less each of its parts')
    add('--nets', nargs='+', default=['mobilenet_v2', 'resnet50'], help='of finetune')
    add('--round_channels', default=8, type=int, help='of finetune: where channels are removed, '
        'leave multiples of so many, for comparison')
    add('--size', default=224, type=int, help='of finetune: height and width of the images')
    add('--imagenetpath', default='', metavar='DIR', help='of imagenet: take images from here; '
        "'': shapes, drawn as large as ImageNet's images are on average")
    bench = parser.parse_args(argv)
    training.check_numbers(bench, ('rounds', 'steps'), ('nthread', 'batch_size', 'images'))
    large = bench.loop != 'cifar'
    bench.batch_size = bench.batch_size or BATCHES[bench.loop]
    bench.images = bench.images or (256 if large else 50000)
    for case in bench.cases:
        if not re.fullmatch(r'\d+-\d+(:\d+-\d+)?', case):
            raise InputError(f'--cases {case}: give student or student:teacher such as 16-1:16-2')
        nets(case)
    if bench.dtype == 'auto':
        bench.dtype = 'bfloat16' if training.computes_bfloat16(DEVICE) else 'float'
    return bench


def options(*flags):
    """Those of AT+KD in cifar.py; with small steps, for the images mean nothing."""
    return cifar.parse(['--teacher_id', 'none', '--alpha', '.9', '--beta', '1e3', '--lr', '1e-3',
                        *flags])


def nets(case):
    """'16-1:16-2' -> the student's function, the teacher's or None, their parameters."""
    torch.manual_seed(0)
    made = [cifar.resnet(*map(int, net.split('-')), CLASSES) for net in case.split(':')]
    params = {prefix + k: v.detach().requires_grad_(v.requires_grad and prefix == 'student.')
              for prefix, (_, p) in zip(('student.', 'teacher.'), made, strict=False)
              for k, v in p.items()}
    return made[0][0], made[1][0] if made[1:] else None, params


def random_images(bench):
    """Whole batches of them, so that all steps are alike."""
    rng, n = np.random.default_rng(0), -(-bench.images // bench.batch_size) * bench.batch_size
    return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, CLASSES, n)


def augment(image, top, left, flip):
    """uint8 (H, W, 3) -> float (3, H, W): padded, cropped, mirrored where `flip`, normalised."""
    x = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode='reflect')
    x = x[top:top + image.shape[0], left:left + image.shape[1]]
    x = (x.astype(np.float32) - np.float32(datasets.MEAN)) / np.float32(datasets.STD)
    return np.ascontiguousarray((x[:, ::-1] if flip else x).transpose(2, 0, 1))


def augment_all(samples):
    draw = random.randrange
    return default_collate([(augment(x, draw(2 * PAD + 1), draw(2 * PAD + 1), draw(2)), y)
                            for x, y in samples])


def image_batches(bench):
    """A function that gives an epoch's batches, augmented image by image in workers."""
    warnings.filterwarnings('ignore', 'This DataLoader will create')   # 4, on any machine
    return DataLoader(list(zip(*random_images(bench), strict=True)), bench.batch_size, True,
                      num_workers=bench.nthread, collate_fn=augment_all, pin_memory=CUDA).__iter__


def published_objective(opt, f_s, f_t):
    """Loss, logits and attention losses in training, operation by operation as published."""
    def at(x):
        return F.normalize(x.pow(2).mean(1).view(x.shape[0], -1))

    def objective(params, inputs, targets):
        y_s, g_s = f_s(inputs, params, True, 'student.')
        ce, T = F.cross_entropy(y_s, targets), opt.temperature
        if f_t is None:
            return ce, y_s, []
        with torch.no_grad():
            y_t, g_t = f_t(inputs, params, False, 'teacher.')
        p, q = F.log_softmax(y_s / T, dim=1), F.softmax(y_t / T, dim=1)
        kd = F.kl_div(p, q, reduction='sum') * T ** 2 / len(targets)
        losses = [(at(s) - at(t)).pow(2).mean() for s, t in zip(g_s, g_t, strict=True)]
        return opt.alpha * kd + (1 - opt.alpha) * ce + opt.beta * sum(losses), y_s, losses

    return objective


def published(bench, case):
    """(function of an epoch's batches, step(inputs, targets)) of the published way."""
    torch.backends.cudnn.benchmark = True
    opt, (f_s, f_t, params) = options(), nets(case)
    params = {k: v.detach().to(DEVICE).requires_grad_(v.requires_grad) for k, v in params.items()}
    objective, optimizer = published_objective(opt, f_s, f_t), training.sgd(opt, params, 1)
    errors, meters = ClassErrorMeter(accuracy=True), [AverageValueMeter() for _ in range(4)]

    def step(inputs, targets):
        targets = targets.to(DEVICE)
        optimizer.zero_grad()
        loss, logits, parts = objective(params, inputs.to(DEVICE), targets)
        loss.backward()
        errors.add(logits.detach().cpu(), targets.cpu())
        for meter, value in zip(meters, (loss, *parts), strict=False):
            meter.add(value.item())
        optimizer.step()

    return image_batches(bench), step


def ours(bench, case, way):
    """The same of our way; `way` says which of OURS' parts."""
    if not way['keep_memory']:
        training.keep_memory = lambda: None
    opt = options('--dtype', way['dtype'] or bench.dtype)
    training.set_up(opt)
    f_s, f_t, params = nets(case)
    params = {k: v.detach().contiguous(memory_format=way['layout']).requires_grad_(v.requires_grad)
              if v.ndim == 4 else v for k, v in training.on_device(params, opt, DEVICE).items()}
    objective, optimizer = distill.make_objective(opt, f_s, f_t), training.sgd(opt, params, 1)
    if way['compile']:
        objective = training.compiled(objective, params, DEVICE)
    engine, beta = Engine(), torch.tensor(opt.beta, device=DEVICE)
    training.add_up(engine, DEVICE, lambda *bar: None)[0]()

    def step(inputs, targets):
        inputs = inputs.to(DEVICE).contiguous(memory_format=way['layout'])
        state = {'sample': (inputs, targets.to(DEVICE)), 'train': True}
        engine.hook('on_sample', state)
        optimizer.zero_grad()
        with training.precision(opt, DEVICE):
            state['loss'], *state['output'] = objective(params, *state['sample'], beta)
        state['loss'].backward()
        engine.hook('on_forward', state)
        optimizer.step()

    if not way['whole_batch']:
        return image_batches(bench), step
    images, labels = random_images(bench)
    return data.epoch_batches(torch.from_numpy(data.pad_reflect(images, PAD)).to(DEVICE),
                              torch.from_numpy(labels).to(DEVICE), bench.batch_size,
                              datasets.MEAN, datasets.STD, pad=PAD, shuffle=True)[1], step


def child(conn, bench, case, way):
    """Answer what the parent asks of one way, until it hangs up."""
    epoch, step = ours(bench, case, way) if way else published(bench, case)
    batches = chain.from_iterable(iter(epoch, None))
    fixed = [x.to(DEVICE) for x in next(batches)]
    whole, single = (lambda: step(*next(batches))), (lambda: step(*fixed))
    answers = {'whole': lambda n: seconds(whole, n, 2 * bench.nthread + 1),
               'single': lambda n: seconds(single, n), 'flop': lambda n: flop(single),
               'memory': lambda n: peak_memory(), 'idle': lambda n: idle(whole, n)}
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            what, n = conn.recv()
            conn.send(answers[what](n))


def measure(bench, case):
    """Rounds in which all ways take their turns -> for each way, its name and columns."""
    changes = {'ours, compiled': dict(compile=True)} if bench.compile else {}
    changes |= ABLATED if bench.ablate else {}
    ways = {'published': None, 'ours': OURS} | {k: OURS | v for k, v in changes.items()}
    context, conns = multiprocessing.get_context('spawn'), {}
    turns = {name: {'whole': [], 'single': []} for name in ways}
    peaks = {'float': 0, bench.dtype: 0}
    try:
        for name, way in ways.items():
            conns[name], other = context.Pipe()
            context.Process(target=child, args=(other, bench, case, way)).start()
            other.close()
            ask(conns[name], 'whole')       # first calls, compilation
        for _ in range(bench.rounds):
            for name, conn in conns.items():
                for what, times in turns[name].items():
                    times.append(ask(conn, what, bench.steps))
            peaks = {k: max(v, peak(training.DTYPES[k])) for k, v in peaks.items()}
        n = ask(conns['published'], 'flop')
        for name, way in ways.items():
            idle, z = ask(conns[name], 'idle', bench.steps), {'memory': ask(conns[name], 'memory')}
            dtype = (way['dtype'] or bench.dtype) if way else 'float'
            for what, times in turns[name].items():
                z[what] = bench.batch_size / median(times)
                z[what + '_ratio'] = median(map(truediv, turns['published'][what], times))
                z[what + '_share'] = 100 * n / median(times) / peaks[dtype]
            yield dict(z, case=case, way=name, flop=n / 1e9, idle=idle or '-')
    finally:
        for conn in conns.values():
            conn.close()
        for process in multiprocessing.active_children():
            process.join()


def main(argv=None):
    bench = parse(argv)
    if bench.loop != 'cifar':
        return {'imagenet': bench_imagenet, 'finetune': bench_finetune}[bench.loop].run(bench)
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}; ours in {bench.dtype}; batch '
          f'{bench.batch_size}, {bench.rounds} rounds of {bench.steps} steps')
    print('case       way                     images/s  ratio  no data  ratio   GFLOP      of peak'
          '     MB  idle')
    for case in bench.cases:
        for z in measure(bench, case):
            print('{case:<11}{way:<24}{whole:8.0f}{whole_ratio:7.2f}{single:9.0f}'
                  '{single_ratio:7.2f}{flop:8.1f}{whole_share:6.1f}{single_share:5.1f} %'
                  '{memory:7.0f}{idle:>6}'.format(**z), flush=True)


if __name__ == '__main__':
    training.run(main)
