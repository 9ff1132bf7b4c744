"""Image files -> batches: decoded and cropped in workers, uint8 until they are on the device."""
import math
import os
import pathlib
import warnings

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import arrays
from engine import processes
from utils import InputError, RunError

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
    dataset, share = Files(images, labels, size, **views), batch_size // processes.world()
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
        plan = processes.shard(plan, even=train)
        parts = plan.split(arrays.sizes_of(len(plan), share)) if train else plan.split(share)
        loader = DataLoader(dataset, None, sampler=[p.T for p in parts if len(p)],
                            num_workers=nthread, pin_memory=device.type == 'cuda',
                            generator=torch.Generator())    # leaves torch's own alone
        return ((len(targets), images, targets) for images, targets in whole_errors(loader))

    def make(_, images, targets):
        images, targets = (v.to(device, non_blocking=True) for v in (images, targets))
        inputs = arrays.normalise(images.flatten(0, 1), stats)
        return inputs if images.shape[1] == 1 else inputs.unflatten(0, images.shape[:2]), targets

    return arrays.Images(count if train else n, epoch, make, [])


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
