"""Batches of images that lie on the device, a whole batch augmented by one gather."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from system import processes
from utils import InputError

# mean and standard deviation of red, green and blue, from 0 to 255, that normalise a net's pixels
PIXELS = {
    'torchvision': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    'tensorflow': ((127.5,) * 3, (127.5,) * 3),
    'caffe': ((122.679, 116.669, 104.007), (1.,) * 3),
    # of CIFAR-10; the published code uses them for CIFAR-100 too
    'cifar': ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
}


def add_pixel_flags(parser, sizes, pixels=PIXELS):
    """Add --size, whose help says what `sizes` 0 stands for, and --pixels, which chooses among
    `pixels` -> their group."""
    p = parser.add_argument_group('pixels')
    p.add_argument('--size', default=0, type=int, metavar='N', help='height and width of the '
                   f"net's inputs, in pixels; 0: {sizes}")
    p.add_argument('--pixels', default='', choices=['', *pixels], help='whose mean and standard '
                   "deviation the pixels are normalised by; '': the net's own")
    return p


def pad_reflect(images, pad):
    """Mirror `pad` pixels around images (N, H, W, 3) -> (N, H+2p, W+2p, 3); the edge itself is not
    repeated. InputError, if the images are too small for that."""
    if pad >= min(images.shape[1:3]):
        raise InputError(f'--randomcrop_pad {pad} is too large for images of '
                         f'{images.shape[1]}x{images.shape[2]} pixels')
    return np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='reflect')


def crop_flip(padded, index, top, left, flip, height, width):
    """Crop the images `index` of `padded` (N, H', W', 3), each at its own corner (top, left), and
    mirror them where `flip` -> (B, height, width, 3)."""
    rows = top[:, None] + torch.arange(height, device=padded.device)
    cols = torch.arange(width, device=padded.device)
    cols = left[:, None] + torch.where(flip[:, None], width - 1 - cols, cols)
    return padded[index[:, None, None], rows[:, :, None], cols[:, None, :]]


def normalise(images, stats):
    """Normalise images, uint8 (B, H, W, 3), by `stats`, means and standard deviations (2, 3) ->
    (B, 3, H, W) in channels_last memory format, of the dtype of `stats`."""
    # whole rows at a time: three values are too few for vector instructions
    width = images.shape[2]
    mean, std = stats.repeat(1, width)
    rows = images.to(stats.dtype).flatten(2).sub_(mean).div_(std)
    return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def some_of(whole, n):
    """Choose at most n images of a set, a tuple of arrays (N, ...); the same ones each time."""
    chosen = np.random.default_rng(0).permutation(len(whole[1]))[:n]
    return tuple(a[chosen] for a in whole)


class Images(NamedTuple):
    """A set of images as a step takes it, batch by batch.

    n: the number of images in an epoch. epoch(generator) draws what an epoch needs, from a CPU
    generator, so that the draws do not depend on the device -> iterator of (size, *tensors): the
    number of images in each batch, and what the batch is made of, unless that is on the device
    already. make(size, *tensors) -> inputs (B, 3, H, W) and targets (B,) on the device; it works on
    tensors alone, and changes those in `state` in place.
    """
    n: int
    epoch: Callable
    make: Callable
    state: list

    def batches(self, generator=None):
        """Yield inputs and targets of an epoch's batches."""
        return (self.make(*batch) for batch in self.epoch(generator))


def sizes_of(n, size):
    """Return the sizes of the batches of n images; the last may be smaller. A single image that is
    left over joins the batch before it: batch normalisation needs more than one value."""
    sizes = [size] * (n // size) + ([n % size] if n % size else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [size + 1]
    return sizes


def order_of(n, count, generator):
    """Draw the indices of an epoch of `count` of n images; none comes again before all have."""
    passes = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(passes)[:count]


def test_batch(batch_size, size, device):
    """Return the size of a test batch, where training takes `batch_size` images of size x size
    pixels. On a GPU it is larger, 2,048 of CIFAR's images, since small batches do not fill it."""
    many = 2048 * 32 ** 2 // size ** 2 // processes.world() * processes.world()
    return max(batch_size, many) if device.type == 'cuda' else batch_size


def held_images(images, labels, batch_size, mean, std, dtype=torch.float32, pad=0, train=False,
                count=0):
    """Make `Images` that lie on the device: uint8 (N, H, W, 3), labels int64 (N,).

    In training, images come in random order, mirrored with probability 1/2, and cropped at random
    if they have `pad` pixels around them. All this is drawn once per epoch of `count` images; 0 is
    one pass over them. Several processes draw the same, and each takes its share of every batch.
    """
    device = images.device
    stats = torch.tensor([mean, std], dtype=dtype, device=device)
    n, height, width = len(images), images.shape[1] - 2 * pad, images.shape[2] - 2 * pad
    count = count or n
    plan = processes.shard(torch.arange(count) % n, even=train)
    sizes = sizes_of(len(plan), batch_size // processes.world())
    # an epoch's images, corners and flips; how many of its images were taken so far
    draws = torch.zeros(len(plan), 4, dtype=torch.long, device=device)
    place = torch.zeros((), dtype=torch.long, device=device)
    draws[:, 0] = plan

    def epoch(generator=None):
        if train:
            new = torch.stack([order_of(n, count, generator),
                               *torch.randint(2 * pad + 1, (2, count), generator=generator),
                               torch.randint(2, (count,), generator=generator)])
            draws.copy_(processes.shard(new.T, even=True), non_blocking=True)
        place.zero_()
        return ((size,) for size in sizes)

    def make(size):
        index, top, left, flip = draws[place + torch.arange(size, device=device)].T
        place.add_(size)
        some = (crop_flip(images, index, top, left, flip.bool(), height, width) if train else
                images[index])
        return normalise(some, stats), labels[index]

    return Images(count, epoch, make, [place])


def both(source, target):
    """Join each batch of `source` and one of `target` into a batch with the labels of the first."""
    def epoch(generator=None):
        pairs = zip(source.epoch(generator), target.epoch(generator), strict=True)
        return ((n, *x, *y) for (n, *x), (_, *y) in pairs)

    def make(size, *tensors):
        half = len(tensors) // 2
        (x, labels), (y, _) = source.make(size, *tensors[:half]), target.make(size, *tensors[half:])
        return torch.cat([x, y]), labels

    return Images(source.n, epoch, make, source.state + target.state)
