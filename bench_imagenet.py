"""ImageNet's input and ResNet-18's steps, each against the plain way to do the same.

    python bench.py imagenet

First images/s on one core, from files to normalised batches: as torchvision does it, over PIL and
image by image; ours; ours from a --cache; and decoding alone, the limit of ours. The same crops of
the same images in each, so that the mean difference of the pixels to PIL's can be printed too.

Then steps of ResNet-18 at 224x224 on a batch that stays where it is, training alone, by AT from
ResNet-34, and inference: in float and NCHW, as published; and ours, in bfloat16 where the hardware
computes it, channels_last, with the BN of a net that is not trained folded away, and on a GPU
training as CUDA graphs. All ways take turns; medians over the rounds.
"""
import tempfile
from statistics import median

import cv2
import numpy as np
import torch
from PIL import Image

import imagenet
from data import decoded, folder_sets, image_files, shapes
from engine import clock, measuring, runs, script, step
from engine.clock import CUDA, DEVICE
from methods import teaching
from weights import folding

SIZE, PIXELS = 224, imagenet.PIXELS['torchvision']
DRAWN = 440     # pixels; ImageNet's mean image has 468x401
COLUMNS = [('what', '<11'), ('way', '<24'), ('images/s', '>9.0f'), ('ratio', '>7.2f'),
           ('of peak', '>9')]


def pil_crop(path, seed):
    """What torchvision's RandomResizedCrop and RandomHorizontalFlip make of a file, uint8
    (224, 224, 3)."""
    image, rng = Image.open(path).convert('RGB'), np.random.default_rng(seed)
    top, left, h, w = decoded.random_box(rng, image.height, image.width)
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
        shapes.write_shapes(root, {'train': bench.images, 'test': 1}, DRAWN)
    files, labels, _ = folder_sets.class_folders(root, 'train')
    chosen = np.random.default_rng(0).permutation(len(files))[:bench.images]
    files, labels = files[chosen], labels[chosen]
    cached, _ = decoded.write_cache(files, labels, folder + '/cache', SIZE, 1)
    seeds = np.random.default_rng(1).integers(1, 2 ** 62, len(files)).tolist()

    def ours(files):
        images = decoded.decoded_images(files, labels, bench.batch_size, SIZE, *PIXELS,
                                        torch.device('cpu'), train=True)
        return lambda: [None for _ in images.batches()]

    pairs = list(zip(map(str, map(bytes.decode, files)), seeds, strict=True))[:64]
    index = torch.arange(len(pairs)), torch.tensor(seeds[:64])
    crops = decoded.Files(files, labels, SIZE)[index][0][:, 0]
    difference = np.mean([np.abs(pil_crop(*pair) - x.numpy().astype(float))
                          for pair, x in zip(pairs, crops, strict=True)])
    return {'PIL, as torchvision': lambda: [None for _ in pil_batches(
                [bytes.decode(f) for f in files], seeds, bench.batch_size)],
            'ours': ours(files), 'ours, from the cache': ours(cached),
            'decoding alone': lambda: [image_files.read_image(f) for f in files],
            }, difference, len(files)


def step_of(bench, task, dtype, ours):
    """A function of no arguments: a step of training ResNet-18, alone or by AT from ResNet-34, or
    of inference, on one batch; of ours as imagenet.py does it."""
    opt = imagenet.parse(['--imagenetpath', '-', '--dtype', dtype, '--lr', '1e-3', '--beta', '1e3',
                          '--teacher_params', '-'])
    script.set_up(opt)
    layout = torch.channels_last if ours else torch.contiguous_format
    x = torch.randn(bench.batch_size, 3, SIZE, SIZE, device=DEVICE).contiguous(memory_format=layout)
    targets = torch.randint(1000, (bench.batch_size,), device=DEVICE)
    f, params = imagenet.define_student(18, 1)
    fold = folding.fold if ours else dict       # of what is not trained
    if task != 'inference':
        f_t, teacher = imagenet.define_student(34, 1)
        by = (f_t, fold(teacher)) if task == 'AT' else None
        t = measuring.new_training(teaching.prepare, opt, (f, params), by,
                                   measuring.one_batch(x, targets), SIZE, layout)
        return measuring.steps([t], measuring.taker(ours and CUDA))
    params = step.on_device(fold(params), dtype, DEVICE, fixed=True)
    params = {k: v.contiguous(memory_format=layout) if v.ndim == 4 else v
              for k, v in params.items()}

    def test():
        with torch.no_grad(), step.precision(dtype, DEVICE):
            return f(x, params, False)[0]

    return test


def rows(bench):
    """Of input, and of the steps of each task."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways, difference, n = inputs(bench, folder)
        found = clock.turns(ways, bench.rounds, 1)
    for name, times in found.items():
        yield 'input', name, *measuring.compared(times, found['PIL, as torchvision'], n), ''
    print(f'mean difference of the pixels to PIL: {difference:.3f} grey levels')
    torch.set_num_threads(threads)
    for task in ('training', 'AT', 'inference'):
        dtypes = {'float, NCHW': 'float', 'ours': bench.dtype}
        ways = {name: step_of(bench, task, dtype, name == 'ours')
                for name, dtype in dtypes.items()}
        n, found = clock.flop(ways['float, NCHW']), clock.turns(ways, bench.rounds, bench.steps)
        for name, times in found.items():
            of_peak = n / median(times) / clock.peak(step.DTYPES[dtypes[name]])
            yield (task, name, *measuring.compared(times, found['float, NCHW'], bench.batch_size),
                   f'{100 * of_peak:.1f} %')


def run(bench):
    script.keep_memory()
    print(f'{runs.device_name(DEVICE)}, torch {torch.__version__}, OpenCV {cv2.__version__}; ours '
          f'in {bench.dtype}; {bench.rounds} rounds')
    measuring.table(COLUMNS, rows(bench))
