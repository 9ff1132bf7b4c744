"""Image files -> batches: decoded and cropped in workers, uint8 until they are on the device."""
import functools
import math
import os
import pathlib
import platform

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from data import arrays, image_files
from system import files, processes
from utils import InputError

# ---- crops --------------------------------------------------------------------------------------

WHOLE = 4096 ** 2       # pixels, up to which the result of a resize is computed as a whole
TRIES = 10      # of a random crop that may not fit, as in torchvision
QUALITY = 90    # of the JPEG files of a cache
HINT = '; --check_data lists all images that cannot be read, --skip_broken leaves them out'


def resize(image, height, width):
    """Resize an image, uint8 (H, W, C) -> (height, width, C): bilinear, antialiased, as by PIL."""
    x = torch.from_numpy(image)[None].permute(0, 3, 1, 2)       # which torch sees is channels_last
    x = F.interpolate(x, (height, width), mode='bilinear', antialias=True)
    return x[0].permute(1, 2, 0).numpy()


def random_box(rng, height, width):
    """Draw top, left, height and width of a random crop: 8 to 100 % of the area, with an aspect
    ratio from 3/4 to 4/3; the largest central one, if that does not fit after some tries."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def random_crop(image, size, rng):
    """Resize a `random_box` of an image to size x size pixels."""
    top, left, h, w = random_box(rng, *image.shape[:2])
    return resize(np.ascontiguousarray(image[top:top + h, left:left + w]), size, size)


def short_side(size):
    """Return the short side, in pixels, of images whose central `size` is tested: 256 for 224."""
    return round(size * 256 / 224)


def resized_shape(image, short):
    """Return height and width of an image after it is resized to a short side, in pixels."""
    h, w = image.shape[:2]
    return (short, short * w // h) if h <= w else (short * h // w, short)


def enlarged_part(image, height, width, size, top, left):
    """Compute size x size pixels at (top, left) of an image enlarged to (height, width), and no
    others; they are those of `resize`, up to a grey level."""
    y, x = ((2 * torch.arange(start, start + size, dtype=torch.double) + 1) / n - 1
            for start, n in ((top, height), (left, width)))     # from -1 to 1 over the image
    grid = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=2)[None]
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2).double()
    part = F.grid_sample(pixels, grid, padding_mode='border', align_corners=False)
    return part[0].permute(1, 2, 0).round().byte().numpy()


def crops(image, height, width, size, places):
    """Resize an image to (height, width) and cut out size x size pixels at each of the `places`,
    [(top, left)]. A result far larger than the image, such as a line of pixels resized by its
    short side, is computed at these places alone."""
    if height * width > max(WHOLE, image.shape[0] * image.shape[1]):
        return [enlarged_part(image, height, width, size, *place) for place in places]
    whole = resize(image, height, width)
    return [whole[top:top + size, left:left + size] for top, left in places]


RESIZES = ('keep', 'squash')
CROPS = ('area', 'place', 'centre')


def views(image, seed, size, resize='keep', crop='area', ten=False):
    """Cut what a net is shown out of an image, uint8 (H, W, 3) -> [uint8 (size, size, 3)].

    A seed of -1 makes the view of a test: the image is resized to `short_side`, or squashed to a
    square of it, and its central crop taken, or `ten` crops: corners and centre, mirrored and not.
    Any other seed makes a random crop, mirrored if the seed is odd: of any `area` and place; of any
    `place` in the resized image; or its `centre`, which is never mirrored.
    """
    train, rng, short = seed >= 0, np.random.default_rng(max(seed, 0)), short_side(size)
    if train and crop == 'area':
        found = [random_crop(image, size, rng)]
    else:
        height, width = (short, short) if resize == 'squash' else resized_shape(image, short)
        bottom, right = height - size, width - size
        places = [(round(bottom / 2), round(right / 2))]
        if train and crop == 'place':
            places = [(int(rng.integers(bottom + 1)), int(rng.integers(right + 1)))]
        if ten:
            places = [(0, 0), (0, right), (bottom, 0), (bottom, right), *places]
        found = crops(image, height, width, size, places)
    if ten:
        return [v for view in found for v in (view, cv2.flip(view, 1))]
    mirrored = train and crop != 'centre' and seed % 2
    return [cv2.flip(view, 1) for view in found] if mirrored else found


# ---- batches ------------------------------------------------------------------------------------

def read_batch(images, labels, boxes, size, how, plan):
    """Read the images of a batch, whose `plan` (B, 2) is the index and the seed of each -> `views`
    uint8 (B, V, size, size, 3) in RGB order, by the options `how`, and labels (B,)."""
    found = []
    for i, seed in plan.tolist():
        image = images[i]
        image = image_files.read_image(image) if images.dtype.kind == 'S' else image[:, :, ::-1]
        if boxes is not None:
            x, y, w, h = np.round(boxes[i]).astype(int)
            inside = image[max(y, 0):y + h, max(x, 0):x + w]
            image = inside if inside.size else image
        its = views(np.ascontiguousarray(image), seed, size, **how)
        found.append([cv2.cvtColor(v, cv2.COLOR_BGR2RGB) for v in its])
    return torch.from_numpy(np.stack(found)), torch.from_numpy(labels[plan[:, 0].numpy()])


def decoded_images(images, labels, batch_size, size, mean, std, device, nthread=0,
                   dtype=torch.float32, train=False, count=0, boxes=None, **how):
    """Make `Images` that are decoded for each batch, by `nthread` workers.

    images: names of files, bytes (N,), or uint8 (N, H, W, 3); labels: int64 (N,), all arrays; size:
    height and width of the crops, in pixels: random ones in training, where images come in random
    order, else central ones. count: images of a training epoch, if that is not one pass over them.
    boxes: (N, 4), x, y, width and height of what is cut out of each image first. how: options of
    `views`; inputs are (B, 3, H, W), or of ten crops (B, 10, 3, H, W).
    """
    stats = torch.tensor([mean, std], dtype=dtype, device=device)
    read = functools.partial(read_batch, images, labels, boxes, size, how)
    n = len(images)
    count = count or n if train else n

    def epoch(generator=None):
        order, seeds = torch.arange(n), torch.full((n,), -1)
        if train:
            order = arrays.order_of(n, count, generator)
            seeds = torch.randint(2 ** 62, (count,), generator=generator)
        plan = processes.shard(torch.stack([order, seeds], dim=1), even=train)
        parts = plan.split(arrays.sizes_of(len(plan), batch_size // processes.world()))
        batches = image_files.loaded(parts, nthread, HINT, collate_fn=read,
                                     pin_memory=device.type == 'cuda')
        return ((len(targets), images, targets) for images, targets in batches)

    def make(_, images, targets):
        images, targets = (v.to(device, non_blocking=True) for v in (images, targets))
        inputs = arrays.normalise(images.flatten(0, 1), stats)
        return inputs if images.shape[1] == 1 else inputs.unflatten(0, images.shape[:2]), targets

    return arrays.Images(count, epoch, make, [])


# ---- the cache ----------------------------------------------------------------------------------

def write_small(home, short, names):
    """Write an image file with a short side of at most `short` pixels. `names` are those of the
    original and of the new file, which is unfinished at the top of the cache `home` at first."""
    original, path = map(os.fsdecode, names)
    image = image_files.read_image(original)
    if min(image.shape[:2]) > short:
        small = resize(image, *resized_shape(image, short))
        _, encoded = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    else:
        encoded = np.fromfile(original, np.uint8)
    files.write_whole(path, encoded.tobytes(), home / f'{platform.node()}.{os.getpid()}.tmp')


def write_cache(images, labels, cache, size, nthread):
    """Write small copies of image files into the folder `cache`, once, for crops of `size` pixels
    -> names of the copies, bytes (N,), labels.

    A copy has the `short_side` that testing resizes to; images that are smaller are copied as they
    are. InputError, if an image cannot be read, or the cache holds other images.
    """
    short = short_side(size)
    home = pathlib.Path(cache).expanduser() / f'short{short}'
    new = np.array([os.fsencode(home.joinpath(*pathlib.Path(os.fsdecode(f)).parts[-3:]))
                    for f in images])
    claim(home, pathlib.Path(os.fsdecode(images[0])).resolve().parents[2])
    todo = [pair for pair in zip(images, new, strict=True) if not os.path.exists(pair[1])]
    files.remove_abandoned(home.glob('*.tmp'))
    image_files.for_each(functools.partial(write_small, home, short), todo, nthread,
                         'writing the cache')
    return new, labels


def claim(home, root):
    """Note in a cache `home` that its images are those of `root`. InputError, if it has others."""
    note, text = home / 'source.txt', f'{root}\n'
    try:
        found = note.read_text() if note.exists() else ''
    except (OSError, ValueError) as e:
        raise InputError(f'cannot read {note}: {e}') from None
    if not found:
        files.write_whole(note, text.encode())
    elif found != text:
        raise InputError(f'{home} holds the images of {found.strip()}: give another --cache')
