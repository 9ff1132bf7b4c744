"""The speed of the scripts' inner loops, against a plain implementation and the machine's limits.

    python bench.py cifar
    python bench.py imagenet
    python bench.py finetune

A case is measured in several ways, each in a process of its own; the ways of a case take turns, and
medians over the turns are printed, because machines drift.

cifar: steps of cifar.py on random images, data included. 'published' does what the paper's code
does: float in NCHW, each image augmented by itself in workers, every loss read off the device at
each step, errors counted on the CPU. Its losses are those of 'ours' (tests/test_bench.py).
imagenet: 'input' is from files to normalised batches, on one core, with PIL as in torchvision, and
with our code; decoding alone is the limit. Then steps of ResNet-18 on one batch, alone and by AT
from ResNet-34, and its inference.
finetune: steps of finetune.py on one batch, with each regulariser (delta: uniform channel weights);
then inference of each net, with channels pruned at random to a part of its multiply-adds.

    images/s   of all runs; ratio: to the first way of the case, in the same round
    GFLOP      of matrix products and convolutions in a step; of peak: these per second, against a
               large matrix product or a large convolution in the same dtype, whichever is faster
    MB         peak memory of the process (less its workers), or of the GPU
    idle       part of the time in which no kernel runs on the GPU; ms: of a step of one run
"""
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import tempfile
from functools import partial

import cv2
import numpy as np
import torch

import cifar
import finetune
import imagenet
import nets
import utils
from data import arrays, cifar_sets, decoded, folder_sets, image_files, shapes
from engine import flags, graphs, loop, runs, script, step
from methods import channels, fine_tuned_net, published
from system import clock
from system.clock import Way
from utils import InputError
from weights import facts, folding, store
from weights.architecture import weight_of

SIZE, CROP, DRAWN = 32, 224, 440    # pixels: of cifar; of imagenet, whose mean image has 468x401
PIXELS, CLASSES = arrays.PIXELS['torchvision'], 10
BATCHES = {'cifar': 128, 'imagenet': 32, 'finetune': 16}
CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')
CASES = ['16-1', '16-1:16-2', '16-2:40-2'] + ['16-1:16-2:kd'] * CUDA
METHODS = ('l2', 'l2_sp', 'feature_map', 'delta', 'afd', 'ast', 'act')


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    parser.add_argument('loop', metavar='SCRIPT', choices=BATCHES, help='whose loop is measured: ' +
                        ', '.join(BATCHES))
    m = parser.add_argument_group('measurement')
    m.add_argument('--rounds', default=3 if CUDA else 7, type=int, metavar='N', help='turns of '
                   'each way')
    m.add_argument('--steps', default=20 if CUDA else 10, type=int, metavar='N', help='steps '
                   'measured in a turn')
    m.add_argument('--batch_size', default=0, type=int, metavar='N', help='images per step; 0: ' +
                   ', '.join(f'{n} for {name}' for name, n in BATCHES.items()))
    m.add_argument('--dtype', default='auto', choices=['auto', 'float', 'bfloat16'], help='number '
                   'format of our way; auto as in cifar.py')
    m.add_argument('--images', default=0, type=int, metavar='N', help='number of training images; '
                   '0: 50000 for cifar, 256 for imagenet')
    c = parser.add_argument_group('cifar')
    c.add_argument('--cases', nargs='+', default=CASES, metavar='CASE', help='nets to measure, '
                   'WRNs by depth-width: student; student:teacher (AT+KD); or student:teacher:kd '
                   '(KD alone)')
    c.add_argument('--nthread', default=4, type=int, metavar='N', help='worker processes of the '
                   'published way')
    c.add_argument('--compile', action='store_true', help='also measure our way with --compile of '
                   'cifar.py, as is always done on a GPU')
    c.add_argument('--ablate', action='store_true', help='also measure our way without each of its '
                   'optimisations')
    i = parser.add_argument_group('imagenet')
    i.add_argument('--imagenetpath', default='', metavar='DIR', help='folder that holds train/; '
                   "'': drawn shapes, as large as ImageNet's images are on average")
    f = parser.add_argument_group('finetune')
    f.add_argument('--nets', nargs='+', default=['mobilenet_v2', 'resnet50'], metavar='NET',
                   help='nets to measure, by the names of --arch in finetune.py')
    f.add_argument('--size', default=224, type=int, metavar='N', help='height and width of the '
                   'images')
    f.add_argument('--round_channels', default=8, type=int, metavar='N', help='for comparison, '
                   'also prune to multiples of N channels')
    bench = parser.parse_args(argv)
    check_flags(bench)
    bench.batch_size = bench.batch_size or BATCHES[bench.loop]
    bench.images = bench.images or (256 if bench.loop == 'imagenet' else 50000)
    if bench.dtype == 'auto':
        bench.dtype = 'bfloat16' if script.computes_bfloat16(DEVICE) else 'float'
    return bench


def check_flags(bench):
    """Raise an InputError for invalid values and unknown nets."""
    flags.check_numbers(bench, ('rounds', 'steps', 'round_channels', 'size'),
                        ('nthread', 'batch_size', 'images'))
    for case in bench.cases:
        if not re.fullmatch(r'\d+-\d+(:\d+-\d+(:kd)?)?', case):
            raise InputError(f'--cases {case}: give student, student:teacher such as 16-1:16-2, or '
                             f'student:teacher:kd')
    named = [('--cases', f'wrn-{net}') for case in bench.cases for net in nets_of(case)]
    named += [('--nets', net) for net in bench.nets if bench.loop == 'finetune']
    for flag, name in named:
        try:
            nets.new_net(name, CLASSES)
        except InputError as e:
            raise InputError(f'{flag} {name}: {str(e).split(": ")[-1]}') from None


# ---- steps --------------------------------------------------------------------------------------

def without_end(epoch):
    """Yield the batches of one epoch after another without end, each that of epoch()."""
    return itertools.chain.from_iterable(iter(epoch, None))


def training(its, bench, *words):
    """Make the `loop.Training` of a script from words of its command line."""
    opt = its.parse(['--dtype', bench.dtype, '--batch_size', str(bench.batch_size), '--nthread',
                     '0', *words])
    script.set_up(opt)
    with contextlib.redirect_stdout(None):      # the teacher's error, on meaningless images
        prepared = finetune.prepare(opt, DEVICE) if its is finetune else ()
        return its.make_training(opt, DEVICE, None, [], *prepared)


def on_one_batch(t):
    """Reduce a `loop.Training` to its first batch, which stays on the device."""
    inputs, targets = next(t.train.batches(t.generator))
    n = len(targets)
    return dataclasses.replace(t, train=arrays.Images(
        n, lambda generator: ((n,),), lambda size: (inputs, targets), []))


def steps(trainings, graph=CUDA):
    """Make a function of no arguments that takes the next step of each `loop.Training`, as one CUDA
    graph or eagerly."""
    def batches(t):
        loop.begin_epoch(t)
        return without_end(lambda: t.train.epoch(t.generator))

    take = graphs.captured(DEVICE) if graph else graphs.eager
    pairs = [(t.tasks['train'], batches(t)) for t in trainings]
    return lambda: take([(task, next(its)) for task, its in pairs])


def inference(bench, net, size, keep=None, plain=False):
    """Make a function of no arguments that computes the logits of a net with only the channels
    `keep`, as the scripts test it or, plain, in float and NCHW."""
    f, params = nets.new_net(net, CLASSES)
    x = torch.randn(bench.batch_size, 3, size, size, device=DEVICE)
    if plain:
        return partial(step.logits_of, f, utils.cast(params), x, 'float')
    params = folding.fold(channels.cut(params, keep or {}))
    params = step.on_device(params, bench.dtype, DEVICE, fixed=True)
    x = x.contiguous(memory_format=torch.channels_last)
    return partial(step.logits_of, f, params, x, bench.dtype)


# ---- cifar --------------------------------------------------------------------------------------

def nets_of(case):
    """Return the nets of a case: of '16-1:16-2:kd' ['16-1', '16-2']."""
    return case.removesuffix(':kd').split(':')


def random_images(bench):
    """Make whole batches of random images and labels, for cifar.py the data set 'random', too."""
    rng, n = np.random.default_rng(0), -(-bench.images // bench.batch_size) * bench.batch_size
    train = rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8), rng.integers(0, CLASSES, n)
    cifar_sets.SETS['random'] = lambda root: (train, tuple(a[:1] for a in train), CLASSES)
    return train


def cifar_flags(case, folder):
    """Return the flags of cifar.py for a case, with a small learning rate: the images are noise."""
    (depth, width), *teacher = (net.split('-') for net in nets_of(case))
    words = ['--dataset', 'random', '--depth', depth, '--width', width, '--lr', '1e-3']
    if teacher:
        words += ['--teacher_id', f'{folder}/{"-".join(*teacher)}.pth', '--alpha', '.9',
                  '--beta', '0' if case.endswith(':kd') else '1e3']
    return words


def cifar_published(bench, case, folder, data=True):
    """Make the published step of a case; without `data` always on the same batch."""
    images = random_images(bench)
    opt = cifar.parse(cifar_flags(case, folder))
    images = published.images(*images, bench.batch_size, bench.nthread, DEVICE)
    batches = without_end(images.batches)
    batches = batches if data else itertools.repeat(next(batches))
    teacher = nets.load_net(opt.teacher_id)[::2] if opt.teacher_id else None
    return published.make_step(opt, cifar.NETS[opt.model](opt, CLASSES), teacher, batches, DEVICE)


def cifar_trainings(bench, case, folder, count=1, words=(), per_image=False, keep_memory=True,
                    nchw=False):
    """Yield `count` runs of cifar.py, which differ in the order of their images; the other options
    switch off parts of our way."""
    if not keep_memory:
        script.keep_memory = lambda: None
    images = random_images(bench)
    for seed in range(count):
        t = training(cifar, bench, *cifar_flags(case, folder), *words, '--seed', str(seed))
        train = t.train
        if per_image:
            train = published.images(*images, bench.batch_size, bench.nthread, DEVICE)
        if nchw:
            for v in (*t.state.params.values(), *t.state.momenta.values()):
                v.data = v.data.contiguous()
            train = train._replace(
                make=lambda *batch, make=train.make: [x.contiguous() for x in make(*batch)])
        yield dataclasses.replace(t, train=train)


def cifar_ours(bench, case, folder, data=True, graph=CUDA, **how):
    """Make our step of a case; `how` as `cifar_trainings` takes it."""
    made = cifar_trainings(bench, case, folder, **how)
    f = steps(list(made if data else map(on_one_batch, made)), graph)
    f()     # is compiled here, where the other ways are being prepared, not in their turns
    return f


ABLATED = {'ours, not keep_memory': dict(keep_memory=False), 'ours, in NCHW': dict(nchw=True),
           'ours, in float': dict(words=('--dtype', 'float')),
           'ours, data per image': dict(per_image=True)}


def ways_of_cifar(bench, case, folder, cuda):
    """Return {name: Way} of a case on a CPU or a GPU."""
    what, n = (bench, case, folder), bench.batch_size
    ways = {'ours': {}, 'ours, no data': dict(data=False)}
    ways |= {'ours, not captured': dict(graph=False)} if cuda else {}
    ways |= {'ours, compiled': dict(words=('--compile',))} if cuda or bench.compile else {}
    ways |= {f'ours, {k} runs at once': dict(count=k) for k in (4, 8) if cuda}
    ways |= ABLATED if bench.ablate else {}
    return {
        'published': Way(partial(cifar_published, *what), n, 'float', bench.nthread),
        'published, no data': Way(partial(cifar_published, *what, data=False), n, 'float'),
        **{name: Way(partial(cifar_ours, *what, **how), n * how.get('count', 1),
                     'float' if 'float' in how.get('words', ()) else bench.dtype,
                     bench.nthread if how.get('per_image') else 0) for name, how in ways.items()}}


def cases_of_cifar(bench, folder):
    """Return dicts {case: {name: Way}}, each of which is measured at once: on a GPU one of all
    cases, so that they are compiled at the same time."""
    for net in {net for case in bench.cases for net in nets_of(case)}:
        store.write_params(nets.new_net(f'wrn-{net}', CLASSES)[1], f'{folder}/{net}.pth')
    cases = {case: ways_of_cifar(bench, case, folder, CUDA) for case in bench.cases}
    return [cases] if CUDA else [{case: ways} for case, ways in cases.items()]


# ---- imagenet -----------------------------------------------------------------------------------

def imagenet_input(bench, files, read=None):
    """Make a function that gives the next batch of files, on one core, as imagenet.py does it, or
    by read(path)."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if not read:
        images = decoded.decoded_images(files, np.zeros(len(files), int), bench.batch_size, CROP,
                                        *PIXELS, torch.device('cpu'), train=True)
        return partial(next, without_end(images.batches))
    paths = itertools.cycle(map(os.fsdecode, files))
    return lambda: [read(path) for path in itertools.islice(paths, bench.batch_size)]


def imagenet_step(bench, root, classes, teacher='', plain=False):
    """Make a step of ResNet-18 on one batch, alone or by AT from a teacher's file."""
    words = ['--imagenetpath', root, '--size', str(CROP), '--lr', '1e-3', '--validate', '1']
    words += ['--teacher_params', teacher, '--beta', '1e3'] if teacher else []
    if not plain:
        return steps([on_one_batch(training(imagenet, bench, *words))])
    by, n = nets.load_net(teacher)[::2] if teacher else None, bench.batch_size
    batch = torch.randn(n, 3, CROP, CROP, device=DEVICE), torch.arange(n, device=DEVICE) % classes
    return published.make_step(imagenet.parse(words), imagenet.define_student(18, 1, classes), by,
                              itertools.repeat(batch), DEVICE)


def cases_of_imagenet(bench, folder):
    """Yield dicts {case: {name: Way}}, each of which is measured at once."""
    n, root, teacher = bench.batch_size, bench.imagenetpath, f'{folder}/teacher.pth'
    if not root:
        root = f'{folder}/images'
        shapes.write_shapes(root, {'train': bench.images, 'val': CLASSES}, DRAWN)
    files, _, names = folder_sets.class_folders(root, 'train')
    files = np.random.default_rng(0).permutation(files)[:bench.images]
    cached, _ = decoded.write_cache(files, files, f'{folder}/cache', CROP, 1)
    pil = partial(published.pil_input, size=CROP, mean=PIXELS[0], std=PIXELS[1])
    yield {'input': {k: Way(partial(imagenet_input, bench, *how), n) for k, how in (
        ('PIL, as torchvision', (files, pil)), ('ours', (files,)),
        ('ours, from the cache', (cached,)), ('decoding alone', (files, image_files.read_image)))}}
    classes = len(names)
    store.write_params(imagenet.define_student(34, 1, classes)[1], teacher)
    for task, make in (('training', partial(imagenet_step, bench, root, classes)),
                       ('AT', partial(imagenet_step, bench, root, classes, teacher)),
                       ('inference', partial(inference, bench, 'resnet18', CROP))):
        yield {task: {'float, NCHW': Way(partial(make, plain=True), n, 'float'),
                      'ours': Way(make, n, bench.dtype)}}


# ---- finetune -----------------------------------------------------------------------------------

def write_source(folder, net):
    """Write a net of random parameters, and uniform weights of its channels, as files."""
    params = nets.new_net(net, CLASSES)[1]
    # with the statistics of a new net, it would be taken for one whose BN was folded away
    store.write_params({k: v + .01 if k.endswith('_mean') else v for k, v in params.items()},
                       f'{folder}/{net}.pth')
    counts = [len(params[weight_of(params, k)]) for k in fine_tuned_net.stages(params)]
    pathlib.Path(folder, f'{net}.json').write_text(json.dumps([[1.] * n for n in counts]))


def finetune_step(bench, folder, net, method):
    """Make a step of finetune.py by a method, on one batch."""
    words = ['--channel_weights', f'{folder}/{net}.json'] if method == 'delta' else []
    return steps([on_one_batch(training(
        finetune, bench, '--dataroot', folder, '--source', f'{folder}/{net}.pth', '--size',
        str(bench.size), '--method', method, '--lr', '1e-6', *words))])


def channels_to_keep(bench, net):
    """Choose the channels of a net to keep: all, and those for a half and a quarter of its
    multiply-adds -> {title: keep}."""
    f, params = nets.new_net(net, CLASSES)
    whole = facts.size_of(f, params, bench.size)[1]
    scores, found = channels.by_chance(params, 0), {'whole': {}}
    for part, multiple in itertools.product((.5, .25), (1, bench.round_channels)):
        try:
            keep = channels.to_target(f, params, scores, bench.size, part, multiple)
        except InputError as e:
            print(e)
            continue
        left = facts.size_of(f, channels.cut(params, keep), bench.size)[1] / whole
        found[f'{left:.3f}, multiples of {multiple}'] = keep
    return found


def cases_of_finetune(bench, folder):
    """Yield dicts {case: {name: Way}}, each of which is measured at once."""
    n = bench.batch_size
    shapes.write_shapes(folder, {'train': max(n, CLASSES), 'val': CLASSES}, SIZE)
    for net in bench.nets:
        write_source(folder, net)
        yield {net: {method: Way(partial(finetune_step, bench, folder, net, method), n)
                     for method in METHODS}}
    for net in bench.nets:
        yield {f'{net}, inference': {k: Way(partial(inference, bench, net, bench.size, keep), n)
                                     for k, keep in channels_to_keep(bench, net).items()}}


# ---- all ----------------------------------------------------------------------------------------

def main(argv=None):
    """Run the command line `argv` (default: the process's own)."""
    bench = parse(argv)
    size, cases_of = {'cifar': (SIZE, cases_of_cifar), 'imagenet': (CROP, cases_of_imagenet),
                      'finetune': (bench.size, cases_of_finetune)}[bench.loop]
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}, OpenCV {cv2.__version__}; ours '
          f'in {bench.dtype}; batch {bench.batch_size} of {size}x{size}, {bench.rounds} rounds of '
          f'{bench.steps} steps')
    with tempfile.TemporaryDirectory() as folder:
        groups = cases_of(bench, folder)
        clock.print_row(dict(zip(clock.COLUMNS, clock.COLUMNS, strict=True)))
        for cases in groups:
            for row in clock.measure(cases, bench.rounds, bench.steps, bench.batch_size):
                clock.print_row(row)


if __name__ == '__main__':
    script.run(main)
