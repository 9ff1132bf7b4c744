"""Image files -> batches: decoded and cropped in workers, uint8 until they are on the device."""
import contextlib
import functools
import math
import os
import pathlib
import platform
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from data import arrays, image_files
from system import files, processes
from utils import InputError

# ---- crops --------------------------------------------------------------------------------------

LARGE = 4096 ** 2       # pixels of an image that is resized as a whole, however small it was
TRIES = 10      # of a random crop that may not fit, as in torchvision
QUALITY = 90    # of the JPEG files of a cache
ABANDONED = 600     # seconds after which an unfinished file of a cache is nobody's
HINT = '; --check_data lists all images that cannot be read, --skip_broken leaves them out'


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


def shape_with_short_side(image, short):
    """Height and width of an image that is resized to a short side."""
    h, w = image.shape[:2]
    return (short, short * w // h) if h <= w else (short * h // w, short)


def with_short_side(image, short):
    return resize(image, *shape_with_short_side(image, short))


def crop(image, size, top, left):
    return image[top:top + size, left:left + size]


def stretched(x, axis, n, start, size):
    """The places `start` to start + size of an axis of an array (uint8) that is enlarged to n,
    linearly between the middles of its pixels; what `resize` gives there, up to a grey level."""
    at = ((np.arange(start, start + size) + .5) * x.shape[axis] / n - .5).clip(0, x.shape[axis] - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    part = np.expand_dims(at - low, [k for k in range(x.ndim) if k != axis])
    x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return (x + .5).astype(np.uint8)


def resized(image, height, width):
    """A function (size, top, left) -> those size x size pixels of the image resized to (height,
    width), whose shape it has. What would be very much larger than the image, such as a line of
    pixels resized by its short side, is computed around the crop alone."""
    if height * width <= max(LARGE, image.shape[0] * image.shape[1]):
        return functools.partial(crop, resize(image, height, width))
    return lambda size, top, left: stretched(stretched(image, 1, width, left, size), 0, height, top,
                                             size)


def centre_of(height, width, size):
    """Top and left of the central size x size pixels."""
    return round((height - size) / 2), round((width - size) / 2)


def central_crop(image, size):
    """The central size x size pixels of an image resized to the short side that testing takes."""
    shape = shape_with_short_side(image, short_side(size))
    return resized(image, *shape)(size, *centre_of(*shape, size))


def ten_crops(pixels, height, width, size):
    """The four corners and the centre of `resized` pixels, and their mirrored images."""
    bottom, right = height - size, width - size
    places = (0, 0), (0, right), (bottom, 0), (bottom, right), centre_of(height, width, size)
    return [v for c in (pixels(size, *at) for at in places) for v in (c, cv2.flip(c, 1))]


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
        if isinstance(image, np.ndarray):
            image = image[:, :, ::-1]
        else:
            image = image_files.read_image(image)
        if self.boxes is not None:
            x, y, w, h = np.round(self.boxes[i]).astype(int)
            inside = image[max(y, 0):y + h, max(x, 0):x + w]
            image = inside if inside.size else image
        return np.ascontiguousarray(image)

    def views(self, image, seed):
        short, rng = short_side(self.size), np.random.default_rng(seed) if seed >= 0 else None
        if seed >= 0 and self.crop == 'area':
            image = random_crop(image, self.size, rng)
            return [cv2.flip(image, 1) if seed % 2 else image]
        shape = (short, short) if self.squash else shape_with_short_side(image, short)
        pixels = resized(image, *shape)
        if seed < 0 and self.ten:
            return ten_crops(pixels, *shape, self.size)
        if seed < 0 or self.crop == 'centre':
            return [pixels(self.size, *centre_of(*shape, self.size))]
        image = pixels(self.size, *(int(rng.integers(n - self.size + 1)) for n in shape))
        return [cv2.flip(image, 1) if seed % 2 else image]


def decoded_images(images, labels, batch_size, size, mean, std, device, nthread=0,
                   dtype=torch.float32, train=False, count=0, **views):
    """`Images` that are decoded for each batch: names of files (N,) and labels int64 (N,), arrays.

    size: height and width of the crops, in pixels; in training random ones, mirrored with
    probability 1/2, in random order, else central ones. count: images of a training epoch, if that
    is not one pass over them. nthread: workers that decode and crop. views: more of `Files`; of ten
    crops inputs are (B, 10, 3, H, W).
    """
    stats = torch.tensor([mean, std], dtype=dtype, device=device)
    dataset, share = Files(images, labels, size, **views), batch_size // processes.world()
    n = len(images)
    count = count or n

    def epoch(generator=None):
        if train:
            order = arrays.order_of(n, count, generator)
            seeds = torch.randint(2 ** 62, (count,), generator=generator)
            plan = torch.stack([order, seeds], dim=1)
        else:
            plan = torch.stack([torch.arange(n), torch.full((n,), -1)], dim=1)
        plan = processes.shard(plan, even=train)
        parts = plan.split(arrays.sizes_of(len(plan), share)) if train else plan.split(share)
        batches = image_files.loaded(dataset, nthread, HINT, sampler=[p.T for p in parts if len(p)],
                                     pin_memory=device.type == 'cuda')
        return ((len(targets), images, targets) for images, targets in batches)

    def make(_, images, targets):
        images, targets = (v.to(device, non_blocking=True) for v in (images, targets))
        inputs = arrays.normalise(images.flatten(0, 1), stats)
        return inputs if images.shape[1] == 1 else inputs.unflatten(0, images.shape[:2]), targets

    return arrays.Images(count if train else n, epoch, make, [])


def write_small(home, short, names):
    """Write an image file, of the names of what there is and of what is written, with a short side
    of `short` pixels at most; first as a file of this process at the top of the cache `home`."""
    source, path = map(os.fsdecode, names)
    image = image_files.read_image(source)
    if min(image.shape[:2]) > short:
        _, encoded = cv2.imencode('.jpg', with_short_side(image, short),
                                  [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    else:
        encoded = np.fromfile(source, np.uint8)
    files.write_whole(path, encoded.tobytes(), home / f'{platform.node()}.{os.getpid()}.tmp')


def write_cache(images, labels, cache, size, nthread):
    """The image files written once, encoded, into `cache`, with the short side that testing crops
    of `size` takes -> names there, labels. What is there already is left; small images are copied.
    """
    short = short_side(size)
    home = pathlib.Path(cache).expanduser() / f'short{short}'
    new = np.array([os.fsencode(home.joinpath(*pathlib.Path(os.fsdecode(f)).parts[-3:]))
                    for f in images])
    belongs_to(home, pathlib.Path(os.fsdecode(images[0])).resolve().parents[2])
    todo = [pair for pair in zip(images, new, strict=True) if not os.path.exists(pair[1])]
    remove_abandoned(home)
    image_files.for_each(functools.partial(write_small, home, short), todo, nthread,
                         'writing the cache')
    return new, labels


def remove_abandoned(home):
    """Remove the unfinished files that processes which were killed have left in a cache. Others may
    be at work beside this one: theirs are new."""
    for path in home.glob('*.tmp'):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def belongs_to(home, root):
    """Note in a cache's folder of which images it is made; refuse one that is made of others."""
    note, text = home / 'source.txt', f'{root}\n'
    try:
        found = note.read_text() if note.exists() else ''
    except (OSError, ValueError) as e:
        raise InputError(f'cannot read {note}: {e}') from None
    if not found:       # it is empty where an older revision was killed
        files.write_whole(note, text.encode())
    elif found != text:
        raise InputError(f'{home} holds the images of {found.strip()}: give another --cache')
