"""Arrays and image files -> batches on the device. Images stay uint8 until they are there; the
augmentation of a whole batch of arrays is one gather, files are decoded and cropped in workers."""
import math
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

import parallel
from utils import InputError, RunError


def pad_reflect(images, pad):
    """(N, H, W, 3) -> (N, H+2p, W+2p, 3), mirrored without repeating the edge."""
    if pad >= min(images.shape[1:3]):
        raise InputError(f'--randomcrop_pad {pad} is too large for images of '
                         f'{images.shape[1]}x{images.shape[2]} pixels')
    return np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='reflect')


def crop_flip(padded, index, top, left, flip, height, width):
    """The images `index` of `padded` (N, H', W', 3), each cropped to (height, width) at its own
    corner (top, left) and mirrored where `flip`: (B, height, width, 3)."""
    rows = top[:, None] + torch.arange(height, device=padded.device)
    cols = torch.arange(width, device=padded.device)
    cols = left[:, None] + torch.where(flip[:, None], width - 1 - cols, cols)
    return padded[index[:, None, None], rows[:, :, None], cols[:, None, :]]


def normalise(images, stats):
    """uint8 (B, H, W, 3) and [mean, deviation] (2, 3) -> (B, 3, H, W) in channels_last memory
    format, of the statistics' dtype."""
    # over whole rows at a time: three values at a time are no work for vector instructions
    width = images.shape[2]
    mean, std = stats.repeat(1, width)
    rows = images.to(stats.dtype).flatten(2).sub_(mean).div_(std)
    return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


class Images(NamedTuple):
    """A set of images as a step takes it, batch by batch.

    n: the number of images in an epoch. epoch(generator): draws what an epoch needs, from a CPU
    generator, so that it does not depend on the device -> iterator of (size, *tensors): the number
    of images of each batch, and what it is made of, if that does not lie on the device. make(size,
    *tensors) -> inputs (B, 3, H, W), targets (B,), on the device; it keeps to tensors, of which it
    changes those in `state` in place.
    """
    n: int
    epoch: Callable
    make: Callable
    state: list

    def batches(self, generator=None):
        """The inputs and targets of an epoch's batches."""
        return (self.make(*batch) for batch in self.epoch(generator))


def sizes_of(n, size):
    """Of batches of n images: the last one smaller. One image that is left over goes into the batch
    before: batch normalisation of a single image may have a single value."""
    sizes = [size] * (n // size) + ([n % size] if n % size else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [size + 1]
    return sizes


def test_batch(batch_size, size, device):
    """Images of a test batch, if training takes `batch_size` of size x size pixels: on a GPU as
    many as 2,048 small ones of CIFAR, whose kernels are too short to fill it."""
    many = 2048 * 32 ** 2 // size ** 2 // parallel.world() * parallel.world()
    return max(batch_size, many) if device.type == 'cuda' else batch_size


def held_images(images, labels, batch_size, mean, std, dtype=torch.float32, pad=0, train=False):
    """`Images` that lie on the device: uint8 (N, H, W, 3), and labels int64 (N,).

    In training, images come in random order, mirrored with probability 1/2 and, for pad > 0 (images
    then have that many pixels around them), cropped at random. All this is drawn once per epoch. Of
    several processes, which all draw the same, each gets its share of every batch.
    """
    device = images.device
    stats = torch.tensor([mean, std], dtype=dtype, device=device)
    n, height, width = len(images), images.shape[1] - 2 * pad, images.shape[2] - 2 * pad
    plan = parallel.shard(torch.arange(n), even=train)
    sizes = sizes_of(len(plan), batch_size // parallel.world())
    # an epoch's images, corners and flips, and how many of its images were taken
    draws = torch.zeros(len(plan), 4, dtype=torch.long, device=device)
    place = torch.zeros((), dtype=torch.long, device=device)
    draws[:, 0] = plan

    def epoch(generator=None):
        if train:
            new = torch.stack([torch.randperm(n, generator=generator),
                               *torch.randint(2 * pad + 1, (2, n), generator=generator),
                               torch.randint(2, (n,), generator=generator)])
            draws.copy_(parallel.shard(new.T, even=True), non_blocking=True)
        place.zero_()
        return ((size,) for size in sizes)

    def make(size):
        index, top, left, flip = draws[place + torch.arange(size, device=device)].T
        place.add_(size)
        if train:
            x = crop_flip(images, index, top, left, flip.bool(), height, width)
        else:
            x = images[index]
        return normalise(x, stats), labels[index]

    return Images(n, epoch, make, [place])


def both(source, target):
    """Batches of two sets, one behind the other, with the labels of the first."""
    def epoch(generator=None):
        pairs = zip(source.epoch(generator), target.epoch(generator), strict=True)
        return ((n, *x, *y) for (n, *x), (_, *y) in pairs)

    def make(size, *tensors):
        half = len(tensors) // 2
        (x, labels), (y, _) = source.make(size, *tensors[:half]), target.make(size, *tensors[half:])
        return torch.cat([x, y]), labels

    return Images(source.n, epoch, make, source.state + target.state)


# ---- image files --------------------------------------------------------------------------------

TRIES = 10      # of a random crop that may not fit, as in torchvision
QUALITY = 90    # of the JPEG files of a cache


def read_image(path):
    """An image file, whatever it is called, -> uint8 (H, W, 3) in OpenCV's order, blue first. As in
    most loaders, the rotation that a camera noted is not applied."""
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:       # GIF, which older versions of OpenCV do not know, and others
            image = np.array(Image.open(os.fsdecode(path)).convert('RGB'))[:, :, ::-1]
    except (OSError, ValueError, SyntaxError, cv2.error, Image.DecompressionBombError):
        image = None
    if image is None:
        raise InputError(f'cannot read the image {os.fsdecode(path)}')
    return np.ascontiguousarray(image)


def resize(image, height, width):
    """uint8 (H, W, C) -> (height, width, C), bilinear and antialiased, as PIL does it."""
    x = torch.from_numpy(image)[None].permute(0, 3, 1, 2)       # which torch sees is channels_last
    x = F.interpolate(x, (height, width), mode='bilinear', antialias=True)
    return x[0].permute(1, 2, 0).numpy()


def random_box(rng, height, width):
    """Top, left, height and width of a random crop: of 8 to 100 % of the area and of an aspect
    ratio from 3/4 to 4/3; the largest central one where that does not fit after some tries."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def random_crop(image, size, rng):
    top, left, h, w = random_box(rng, *image.shape[:2])
    return resize(np.ascontiguousarray(image[top:top + h, left:left + w]), size, size)


def short_side(size):
    """To which images are resized before the central crop of `size`: 256 for 224."""
    return round(size * 256 / 224)


def with_short_side(image, short):
    h, w = image.shape[:2]
    return resize(image, *((short, short * w // h) if h <= w else (short * h // w, short)))


def crop(image, size, top, left):
    return image[top:top + size, left:left + size]


def centre(image, size):
    return crop(image, size, *(round((n - size) / 2) for n in image.shape[:2]))


def central_crop(image, size):
    """The central size x size pixels of an image resized to the short side that testing takes."""
    return centre(with_short_side(image, short_side(size)), size)


def ten_crops(image, size):
    """The four corners and the centre of an image, and their mirrored images."""
    bottom, right = (n - size for n in image.shape[:2])
    corners = [crop(image, size, *at) for at in ((0, 0), (0, right), (bottom, 0), (bottom, right))]
    return [v for c in (*corners, centre(image, size)) for v in (c, cv2.flip(c, 1))]


RESIZES = ('keep', 'squash')
CROPS = ('area', 'place', 'centre')


class Files:
    """Images in the form that DataLoader takes: (indices, seeds) -> views, uint8 (B, V, size, size,
    3) in RGB order, and labels (B,).

    images: names of files (N,), or uint8 (N, H, W, 3); labels: (N,); boxes: (N, 4), x, y, width and
    height of what is cut out of each image first. A seed of -1 makes the view of a test: the image
    resized to the short side that testing takes, or `squash`ed to a square of it; its central crop,
    or `ten` crops. Another seed makes a random crop, mirrored if it is odd: of any `area` and
    `place`, of any `place` in the resized image, or the `centre` of it, which is never mirrored.
    """

    def __init__(self, images, labels, size, boxes=None, resize='keep', crop='area', ten=False):
        self.images, self.labels, self.size, self.boxes = images, labels, size, boxes
        self.squash, self.crop, self.ten = resize == 'squash', crop, ten

    def __getitem__(self, batch):
        index, seeds = (v.tolist() for v in batch)
        views = [self.views(self.read(i), seed) for i, seed in zip(index, seeds, strict=True)]
        views = [[cv2.cvtColor(v, cv2.COLOR_BGR2RGB) for v in image] for image in views]
        return torch.from_numpy(np.stack(views)), torch.from_numpy(self.labels[index])

    def read(self, i):
        image = self.images[i]
        image = image[:, :, ::-1] if isinstance(image, np.ndarray) else read_image(image)
        if self.boxes is not None:
            x, y, w, h = np.round(self.boxes[i]).astype(int)
            inside = image[max(y, 0):y + h, max(x, 0):x + w]
            image = inside if inside.size else image
        return np.ascontiguousarray(image)

    def resized(self, image):
        short = short_side(self.size)
        return resize(image, short, short) if self.squash else with_short_side(image, short)

    def views(self, image, seed):
        if seed < 0 and self.ten:
            return ten_crops(self.resized(image), self.size)
        if seed < 0 or self.crop == 'centre':
            return [centre(self.resized(image), self.size)]
        rng = np.random.default_rng(seed)
        if self.crop == 'area':
            image = random_crop(image, self.size, rng)
        else:
            image = self.resized(image)
            image = crop(image, self.size, *(int(rng.integers(n - self.size + 1))
                                             for n in image.shape[:2]))
        return [cv2.flip(image, 1) if seed % 2 else image]


def decoded_images(images, labels, batch_size, size, mean, std, device, nthread=0,
                   dtype=torch.float32, train=False, count=0, **views):
    """`Images` that are decoded for each batch: names of files (N,) and labels int64 (N,), arrays.

    size: height and width of the crops, in pixels; in training random ones, mirrored with
    probability 1/2, in random order, else central ones. count: images of a training epoch, if that
    is not one pass over them. nthread: workers that decode and crop. views: more of `Files`; of ten
    crops inputs are (B, 10, 3, H, W).
    """
    warnings.filterwarnings('ignore', 'This DataLoader will create')    # as many as were asked for
    stats = torch.tensor([mean, std], dtype=dtype, device=device)
    dataset, share = Files(images, labels, size, **views), batch_size // parallel.world()
    n = len(images)
    count = count or n

    def epoch(generator=None):
        if train:
            order = torch.cat([torch.randperm(n, generator=generator)
                               for _ in range(-(-count // n))])[:count]
            seeds = torch.randint(2 ** 62, (count,), generator=generator)
            plan = torch.stack([order, seeds], dim=1)
        else:
            plan = torch.stack([torch.arange(n), torch.full((n,), -1)], dim=1)
        plan = parallel.shard(plan, even=train)
        parts = plan.split(sizes_of(len(plan), share)) if train else plan.split(share)
        loader = DataLoader(dataset, None, sampler=[p.T for p in parts if len(p)],
                            num_workers=nthread, pin_memory=device.type == 'cuda',
                            generator=torch.Generator())    # leaves torch's own alone
        return ((len(targets), images, targets) for images, targets in whole_errors(loader))

    def make(_, images, targets):
        images, targets = (v.to(device, non_blocking=True) for v in (images, targets))
        inputs = normalise(images.flatten(0, 1), stats)
        return inputs if images.shape[1] == 1 else inputs.unflatten(0, images.shape[:2]), targets

    return Images(count if train else n, epoch, make, [])


def whole_errors(loader):
    """What is wrong with a file said in a line, though a worker found it."""
    try:
        yield from loader
    except (InputError, RunError) as e:
        last = str(e).strip().splitlines()[-1]
        raise type(e)(last.split(f'{type(e).__name__}: ')[-1]) from None


class Shrunk:
    """The writing of a cache in the form that DataLoader takes: item i writes the i-th file."""

    def __init__(self, pairs, short):
        self.pairs, self.short = pairs, short

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        source, path = map(os.fsdecode, self.pairs[i])
        image, temporary = read_image(source), f'{path}.{os.getpid()}.tmp'
        if min(image.shape[:2]) > self.short:
            _, encoded = cv2.imencode('.jpg', with_short_side(image, self.short),
                                      [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        else:
            encoded = np.fromfile(source, np.uint8)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            pathlib.Path(temporary).write_bytes(encoded.tobytes())
            os.replace(temporary, path)
        except OSError as e:
            raise RunError(f'cannot write the cache: {path}: {e.strerror}. The same command goes '
                           f'on where it stopped') from None
        return i


def write_cache(files, labels, cache, size, nthread):
    """The image files written once, encoded, into `cache`, with the short side that testing crops
    of `size` takes -> names there, labels. What is there already is left; small images are copied.
    """
    short = short_side(size)
    home = pathlib.Path(cache).expanduser() / f'short{short}'
    new = np.array([os.fsencode(home.joinpath(*pathlib.Path(os.fsdecode(f)).parts[-3:]))
                    for f in files])
    belongs_to(home, pathlib.Path(os.fsdecode(files[0])).resolve().parents[2])
    todo = [pair for pair in zip(files, new, strict=True) if not os.path.exists(pair[1])]
    loader = DataLoader(Shrunk(todo, short), None, num_workers=nthread if todo else 0,
                        generator=torch.Generator())
    for _ in tqdm(whole_errors(loader), 'writing the cache', len(todo), unit=' images',
                  disable=None if todo else True):
        pass
    return new, labels


def belongs_to(home, root):
    """Note in a cache's folder of which images it is made; refuse one that is made of others."""
    note = home / 'source.txt'
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            note.write_text(f'{root}\n')
    except OSError as e:
        raise RunError(f'cannot write the cache: {note}: {e.strerror}') from None
    if note.read_text() != f'{root}\n':
        raise InputError(f'{home} holds the images of {note.read_text().strip()}: give another '
                         f'--cache')
