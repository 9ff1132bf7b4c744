"""The hot loops against the plain way to do the same, and against the machine's limits.

    python bench.py cifar
    python bench.py imagenet        (bench_imagenet.py says what that is)
    python bench.py finetune        (bench_finetune.py)

Both ways train the same nets on random images; in float, their losses and gradients are equal
(tests/test_bench.py). 'published' does what the paper's code does: float in NCHW, each image
augmented by itself in 4 DataLoader workers, every loss read off the device at each step, errors
counted on the CPU. 'ours' is what cifar.py does by default; on a GPU a step is a CUDA graph, and is
measured without ('not captured'), compiled, and with 4 and 8 runs at once, too. Each way has a
process, memory and allocator of its own; they take turns, and medians over the turns are printed,
because machines drift.

    images/s   of whole steps, data included, of all runs; ratio: to the published way in the same
               round
    no data    the same of steps on one batch that stays where it is
    GFLOP      of products and convolutions in a step; of peak: these per second, against the best
               of a large product and a large convolution in the same dtype, with and without data
    MB         peak memory of the process (less its DataLoader workers), or of the GPU
    idle       part of a whole step's time in which no kernel runs on the GPU
    ms         (on a GPU) per run and whole step
"""
import dataclasses
import random
import re
import warnings
from functools import partial
from itertools import chain
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, default_collate
from torchnet.meter import AverageValueMeter, ClassErrorMeter

import bench_finetune
import bench_imagenet
import cifar
import utils
from data import arrays, cifar_sets
from engine import clock, measuring, runs, script, step
from engine.clock import CUDA, DEVICE
from methods import teaching
from utils import InputError

PAD, SIZE, CLASSES = 4, 32, 10
BATCHES = {'cifar': 128, 'imagenet': 32, 'finetune': 16}
CASES = ['16-1', '16-1:16-2', '16-2:40-2'] + ['16-1:16-2:kd'] * CUDA
OURS = dict(runs=1, graph=CUDA, compile=False, dtype='', layout=torch.channels_last,
            whole_batch=True, keep_memory=True)
ABLATED = {'ours, not keep_memory': dict(keep_memory=False),
           'ours, in NCHW': dict(layout=torch.contiguous_format),
           'ours, in float': dict(dtype='float'),
           'ours, data per image': dict(whole_batch=False)}
COLUMNS = [('case', '<14'), ('way', '<23'), ('images/s', '>9.0f'), ('ratio', '>7.2f'),
           ('no data', '>9.0f'), ('ratio', '>7.2f'), ('GFLOP', '>8.1f'), ('of peak', '>13'),
           ('MB', '>7.0f'), ('idle', '>6'), ('ms', '>8.2f')]


def parse(argv):
    parser = script.make_parser(__doc__)
    add = parser.add_argument
    add('loop', choices=['cifar', 'imagenet', 'finetune'], help='which loop')
    add('--cases', nargs='+', default=CASES, metavar='CASE', help='wide residual nets of this '
        'depth-width: student, or student:teacher (AT+KD), or student:teacher:kd (KD alone)')
    add('--rounds', default=3 if CUDA else 7, type=int, help='turns that each way takes')
    add('--steps', default=20 if CUDA else 10, type=int, help='steps measured in a turn')
    add('--batch_size', default=0, type=int, help='images per step; 0: ' + ', '.join(
        f'{n} of {loop}' for loop, n in BATCHES.items()))
    add('--images', default=0, type=int, help='in the training set; 0: 50000, of imagenet 256')
    add('--nthread', default=4, type=int, help='data-loading workers of the published way')
    add('--dtype', default='auto', choices=['auto', 'float', 'bfloat16'],
        help='of our way; auto as in cifar.py')
    add('--compile', action='store_true', help='our way also as cifar.py --compile does it; always '
        'on a GPU')
    add('--ablate', action='store_true', help='our way also less each of its parts')
    add('--nets', nargs='+', default=['mobilenet_v2', 'resnet50'], help='of finetune')
    add('--round_channels', default=8, type=int, help='of finetune: where channels are removed, '
        'leave multiples of so many, for comparison')
    add('--size', default=224, type=int, help='of finetune: height and width of the images')
    add('--imagenetpath', default='', metavar='DIR', help='of imagenet: take images from here; '
        "'': shapes, drawn as large as ImageNet's images are on average")
    bench = parser.parse_args(argv)
    script.check_numbers(bench, ('rounds', 'steps', 'round_channels', 'size'),
                         ('nthread', 'batch_size', 'images'))
    bench.batch_size = bench.batch_size or BATCHES[bench.loop]
    bench.images = bench.images or (50000 if bench.loop == 'cifar' else 256)
    for case in bench.cases:
        if not re.fullmatch(r'\d+-\d+(:\d+-\d+(:kd)?)?', case):
            raise InputError(f'--cases {case}: give student, student:teacher such as 16-1:16-2, or '
                             f'student:teacher:kd')
        nets(case)
    if bench.loop == 'finetune':
        bench_finetune.check_nets(bench)
    if bench.dtype == 'auto':
        bench.dtype = 'bfloat16' if script.computes_bfloat16(DEVICE) else 'float'
    return bench


def options(case, *flags):
    """Those of AT+KD, or KD, in cifar.py; with small steps, for the images mean nothing."""
    return cifar.parse(['--teacher_id', 'none', '--alpha', '.9', '--lr', '1e-3', '--beta',
                        '0' if case.endswith(':kd') else '1e3', *flags])


def ways(bench, cuda):
    """What is measured on a CPU or a GPU, by name: what our way is made of; None: the published
    way."""
    changes = {'ours': {}}
    if cuda:
        changes |= {'ours, not captured': dict(graph=False)}
    if cuda or bench.compile:
        changes |= {'ours, compiled': dict(compile=True)}
    if cuda:
        changes |= {f'ours, {k} runs at once': dict(runs=k) for k in (4, 8)}
    changes |= ABLATED if bench.ablate else {}
    return {'published': None} | {k: OURS | dict(graph=cuda) | v for k, v in changes.items()}


def nets(case):
    """'16-1:16-2' -> the student's function, the teacher's or None, their parameters."""
    torch.manual_seed(0)
    made = [cifar.resnet(*map(int, net.split('-')), CLASSES)
            for net in case.removesuffix(':kd').split(':')]
    params = {prefix + k: v.detach().requires_grad_(v.requires_grad and prefix == 'student.')
              for prefix, (_, p) in zip(('student.', 'teacher.'), made, strict=False)
              for k, v in p.items()}
    return made[0][0], made[1][0] if made[1:] else None, params


# ---- the published way --------------------------------------------------------------------------

def random_images(bench):
    """Whole batches of them, so that all steps are alike."""
    rng, n = np.random.default_rng(0), -(-bench.images // bench.batch_size) * bench.batch_size
    return rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8), rng.integers(0, CLASSES, n)


def augment(image, top, left, flip):
    """uint8 (H, W, 3) -> float (3, H, W): padded, cropped, mirrored where `flip`, normalised."""
    x = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode='reflect')
    x = x[top:top + image.shape[0], left:left + image.shape[1]]
    x = (x.astype(np.float32) - np.float32(cifar_sets.MEAN)) / np.float32(cifar_sets.STD)
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
    """A whole step of the published way, and one on a batch that stays where it is."""
    torch.backends.cudnn.benchmark = True
    opt, (f_s, f_t, params) = options(case), nets(case)
    params = {k: v.detach().to(DEVICE).requires_grad_(v.requires_grad) for k, v in params.items()}
    objective = published_objective(opt, f_s, f_t)
    optimizer = torch.optim.SGD([v for v in params.values() if v.requires_grad], opt.lr,
                                momentum=.9, weight_decay=opt.weight_decay)
    errors, meters = ClassErrorMeter(accuracy=True), [AverageValueMeter() for _ in range(4)]

    def train(inputs, targets):
        targets = targets.to(DEVICE)
        optimizer.zero_grad()
        loss, logits, parts = objective(params, inputs.to(DEVICE), targets)
        loss.backward()
        errors.add(logits.detach().cpu(), targets.cpu())
        for meter, value in zip(meters, (loss, *parts), strict=False):
            meter.add(value.item())
        optimizer.step()

    batches = chain.from_iterable(iter(image_batches(bench), None))
    fixed = [x.to(DEVICE) for x in next(batches)]
    return {'whole': lambda: train(*next(batches)), 'single': lambda: train(*fixed)}


# ---- our way ------------------------------------------------------------------------------------

def training_images(bench, way):
    """The `data.Images` of each run of a way."""
    if not way['whole_batch']:
        epoch = image_batches(bench)
        return [arrays.Images(bench.images, lambda generator: ((len(y), x, y) for x, y in epoch()),
                              lambda size, x, y: (x.to(DEVICE), y.to(DEVICE)), [])]
    images, labels = random_images(bench)
    held = [torch.from_numpy(v).to(DEVICE) for v in (arrays.pad_reflect(images, PAD), labels)]
    return [arrays.held_images(*held, bench.batch_size, cifar_sets.MEAN, cifar_sets.STD, pad=PAD,
                               train=True) for _ in range(way['runs'])]


def trainings(bench, case, way):
    """The runs of a way, which differ in the order of their images."""
    if not way['keep_memory']:
        script.keep_memory = lambda: None
    f_s, f_t, params = nets(case)
    student, teacher = (utils.without_prefix(params, k) for k in ('student.', 'teacher.'))
    made = []
    for seed, images in enumerate(training_images(bench, way)):
        opt = options(case, '--dtype', way['dtype'] or bench.dtype, '--seed', str(seed))
        opt.compile = way['compile']
        script.set_up(opt)
        made.append(measuring.new_training(teaching.prepare, opt, (f_s, student),
                                           f_t and (f_t, teacher), images, SIZE, way['layout']))
    return made


def ours(bench, case, way):
    """A whole step of all runs of our way, and one on batches that stay where they are."""
    def on_one_batch(t):
        batch = next(iter(t.train.epoch(t.generator)))
        return dataclasses.replace(t, train=measuring.one_batch(*t.train.make(*batch)))

    made, take = trainings(bench, case, way), measuring.taker(way['graph'])
    whole = measuring.steps(made, take)
    if way['compile']:
        whole()     # here, where the other ways are being prepared, not in their turns
    return {'whole': whole, 'single': measuring.steps([*map(on_one_batch, made)], take)}


# ---- the measurement ----------------------------------------------------------------------------

def functions(bench, case, way):
    """What a process measures: {'whole': a step, data included; 'single': one without}."""
    return ours(bench, case, way) if way else published(bench, case)


def measure(bench, cases):
    """Rounds in which all ways of all cases take their turns -> rows of the table."""
    jobs = {(case, name): (bench, case, way) for case in cases
            for name, way in ways(bench, CUDA).items()}
    discard = {'whole': 2 * bench.nthread + 1, 'single': 1}     # workers prefetch
    with measuring.children(functions, jobs) as ask:
        clocks = {(*job, what): partial(ask, job, clock.seconds, what, bench.steps, n)
                  for job in jobs for what, n in discard.items()}
        clocks |= {k: partial(clock.peak, step.DTYPES[k]) for k in ('float', bench.dtype)}
        found = clock.turns(clocks, bench.rounds, 0, lambda clock, _: clock())
        for (case, name), (_, _, way) in jobs.items():
            yield row(bench, case, name, way or OURS | dict(dtype='float'), found, ask)


def row(bench, case, name, way, found, ask):
    """Of the table, of what all processes have found."""
    n, values, of_peak = ask((case, 'published'), clock.flop, 'single'), [], ''
    for what in ('whole', 'single'):
        times = [t / way['runs'] for t in found[case, name, what]]
        values += measuring.compared(times, found[case, 'published', what], bench.batch_size)
        best = max(found[way['dtype'] or bench.dtype])
        of_peak += f'{100 * n / median(times) / best:.1f} '
    return [case, name, *values, n / 1e9, of_peak + '%',
            ask((case, name), clock.peak_memory), ask((case, name), clock.idle, 'whole', 5),
            1e3 * bench.batch_size / values[0]]


def main(argv=None):
    bench = parse(argv)
    if bench.loop != 'cifar':
        return {'imagenet': bench_imagenet, 'finetune': bench_finetune}[bench.loop].run(bench)
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}; ours in {bench.dtype}; batch '
          f'{bench.batch_size}, {bench.rounds} rounds of {bench.steps} steps')
    # on a GPU all cases at once, so that they are compiled at the same time
    groups = [bench.cases] if CUDA else [[case] for case in bench.cases]
    measuring.table(COLUMNS if CUDA else COLUMNS[:-1],
                    chain.from_iterable(measure(bench, cases) for cases in groups))


if __name__ == '__main__':
    script.run(main)
