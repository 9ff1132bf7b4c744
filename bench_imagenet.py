"""ImageNet's input and ResNet-18's steps, each against the plain way to do the same.

    python bench.py imagenet

First images/s on one core, from files to normalised batches: as torchvision does it, over PIL and
image by image; ours; ours from a --cache; and decoding alone, the limit of ours. The same crops of
the same images in each, so that the mean difference of the pixels to PIL's can be printed too.

Then steps of ResNet-18 at 224x224 on a batch that stays where it is, training alone, by AT from
ResNet-34, and inference: in float and NCHW, as published; and ours, in bfloat16 where the hardware
computes it, channels_last, with the BN of a net that is not trained folded away. All ways take
turns; medians over the rounds.
"""
import tempfile
from operator import truediv
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image

import data
import datasets
import distill
import folding
import imagenet
import runs
import training
from timing import DEVICE, flop, peak, seconds

SIZE, PIXELS = 224, imagenet.PIXELS['torchvision']
DRAWN = 440     # pixels; ImageNet's mean image has 468x401


def pil_crop(path, seed):
    """What torchvision's RandomResizedCrop and RandomHorizontalFlip make of a file, uint8
    (224, 224, 3)."""
    image, rng = Image.open(path).convert('RGB'), np.random.default_rng(seed)
    top, left, h, w = data.random_box(rng, image.height, image.width)
    image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.BILINEAR)
    return np.asarray(image.transpose(Image.FLIP_LEFT_RIGHT) if seed % 2 else image)


def pil_batches(files, seeds, batch_size):
    mean, std = (np.float32(v) / 255 for v in PIXELS)
    for k in range(0, len(files), batch_size):
        crops = [pil_crop(*pair) for pair in zip(files[k:k + batch_size], seeds[k:k + batch_size],
                                                 strict=True)]
        yield torch.stack([torch.from_numpy(((x.astype(np.float32) / 255 - mean) / std)
                                            .transpose(2, 0, 1).copy()) for x in crops])


def inputs(bench, folder):
    """The ways to come from files to batches, {name: function of no arguments}; and the mean
    difference of our pixels to PIL's, in grey levels."""
    root = bench.imagenetpath
    if not root:
        root = folder + '/shapes'
        datasets.write_shapes(root, {'train': bench.images, 'test': 1}, DRAWN)
    files, labels, _ = datasets.class_folders(root, 'train')
    chosen = np.random.default_rng(0).permutation(len(files))[:bench.images]
    files, labels = files[chosen], labels[chosen]
    cached, _ = data.write_cache(files, labels, folder + '/cache', SIZE, 1)
    seeds = np.random.default_rng(1).integers(1, 2 ** 62, len(files)).tolist()

    def ours(files):
        _, epoch = data.file_batches(files, labels, bench.batch_size, SIZE, *PIXELS,
                                     torch.device('cpu'), train=True)
        return lambda: [None for _ in epoch()]

    pairs = list(zip(map(str, map(bytes.decode, files)), seeds, strict=True))[:64]
    crops, _ = data.Files(files, labels, SIZE)[torch.arange(len(pairs)), torch.tensor(seeds[:64])]
    crops = crops[:, 0]
    difference = np.mean([np.abs(pil_crop(*pair) - x.numpy().astype(float))
                          for pair, x in zip(pairs, crops, strict=True)])
    return {'PIL, as torchvision': lambda: [None for _ in pil_batches(
                [bytes.decode(f) for f in files], seeds, bench.batch_size)],
            'ours': ours(files), 'ours, from the cache': ours(cached),
            'decoding alone': lambda: [data.read_image(f) for f in files]}, difference, len(files)


def steps(bench):
    """The ways to train ResNet-18, alone and by AT from ResNet-34, and to test it:
    {task: {way: function of no arguments}}."""
    return {task: {way: step(bench, task, dtype, layout) for way, dtype, layout in (
        ('float, NCHW', 'float', torch.contiguous_format),
        ('ours', bench.dtype, torch.channels_last))}
        for task in ('training', 'AT', 'inference')}


def step(bench, task, dtype, layout):
    """One batch of a task; in channels_last as training.fit and imagenet.py --evaluate do it."""
    ours = layout == torch.channels_last
    opt = imagenet.parse(['--imagenetpath', '-', '--dtype', dtype, '--lr', '1e-3', '--beta', '1e3',
                          '--teacher_params', '-'])
    x = torch.randn(bench.batch_size, 3, SIZE, SIZE, device=DEVICE).contiguous(memory_format=layout)
    targets = torch.randint(1000, (bench.batch_size,), device=DEVICE)

    def net(depth, prefix, fixed):
        f, params = imagenet.define_student(depth, 1)
        params = training.on_device(folding.fold(params) if ours and fixed else params, opt, DEVICE,
                                    fixed)
        return f, {prefix + k: v.detach().contiguous(memory_format=layout)
                   .requires_grad_(v.requires_grad) if v.ndim == 4 else v
                   for k, v in params.items()}

    if task == 'inference':
        f, params = net(18, '', True)

        def test():
            with torch.no_grad(), training.precision(opt, DEVICE):
                return f(x, params, False)[0]

        return test
    f_s, params = net(18, 'student.', False)
    f_t, teacher = net(34, 'teacher.', True) if task == 'AT' else (None, {})
    params |= teacher
    objective, optimizer = distill.make_objective(opt, f_s, f_t), training.sgd(opt, params, 1)

    def train():
        optimizer.zero_grad()
        with training.precision(opt, DEVICE):
            loss, _, _ = objective(params, x, targets, True, opt.beta)
        loss.backward()
        optimizer.step()

    return train


def take_turns(bench, ways, n):
    """Seconds per call of each way's function, of n calls in each round."""
    turns = {name: [] for name in ways}
    for _ in range(bench.rounds):
        for name, f in ways.items():
            turns[name].append(seconds(f, n))
    return turns


def rows(title, turns, images, more=lambda name, t: ''):
    """Print images/s of each way, and the ratio to the first in the same round."""
    first = next(iter(turns.values()))
    for name, times in turns.items():
        print(f'{title:<11}{name:<24}{images / median(times):9.0f}'
              f'{median(map(truediv, first, times)):7.2f}{more(name, median(times))}', flush=True)


def run(bench):
    training.keep_memory()
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}, OpenCV {cv2.__version__}; ours '
          f'in {bench.dtype}; {bench.rounds} rounds')
    print('what       way                     images/s  ratio')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways, difference, n = inputs(bench, folder)
        rows('input', take_turns(bench, ways, 1), n)
    print(f'mean difference of the pixels to PIL: {difference:.3f} grey levels')
    torch.set_num_threads(threads)
    for task, ways in steps(bench).items():
        n = flop(ways['float, NCHW'])
        turns = take_turns(bench, ways, bench.steps)
        dtypes = {'float, NCHW': 'float', 'ours': bench.dtype}
        peaks = {name: peak(training.DTYPES[dtype]) for name, dtype in dtypes.items()}
        rows(task, turns, bench.batch_size,
             lambda name, t, n=n, peaks=peaks: f'{100 * n / t / peaks[name]:6.1f} % of peak')
