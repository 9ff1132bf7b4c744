"""Image files: which files are taken for images, how they are read, and which cannot be."""
import contextlib
import io
import os
import pathlib
import sys
import warnings

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from system import processes
from utils import InputError, RunError, printable

# the endings of the names of files that OpenCV or PIL reads
IMAGES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.jp2', '.png', '.apng', '.gif', '.bmp', '.dib', '.ppm',
          '.pgm', '.pbm', '.pnm', '.ras', '.sr', '.tga', '.pcx', '.tif', '.tiff', '.webp', '.avif')
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)     # we say it in a line


# ---- one file -----------------------------------------------------------------------------------

@contextlib.contextmanager
def silence():
    """Discard what C libraries such as libpng print."""
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def decode(data):
    """Decode the bytes of an image file, or the first frame of an animation -> uint8 (H, W, 3) in
    OpenCV's order, blue first. Damaged bytes raise nearly anything."""
    image = None
    # of these, OpenCV takes a different first frame than other programs
    animated = data.startswith(b'GIF8') or data.startswith(b'\x89PNG') and b'acTL' in data[:65536]
    if data and not animated:
        with silence() if sys.stderr else contextlib.nullcontext():
            image = cv2.imdecode(np.frombuffer(data, np.uint8),
                                 cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = np.array(Image.open(io.BytesIO(data)).convert('RGB'))[:, :, ::-1]
    return np.ascontiguousarray(image)


def read_image(path):
    """Read and `decode` an image file of any name. As in most loaders, the rotation that a camera
    noted is not applied. InputError, if the file is missing or not an image."""
    path = pathlib.Path(os.fsdecode(path))
    if not path.is_file():      # a pipe, say, from which nothing might ever come
        raise InputError(f'cannot read the image {printable(path)}: there is no such file')
    try:
        return decode(path.read_bytes())
    except Exception:       # of OpenCV's, PIL's or the system's
        raise InputError(f'cannot read the image {printable(path)}') from None


# ---- many files ---------------------------------------------------------------------------------

def for_each(function, items, nthread, title):
    """Call function(item) for each item, in `nthread` workers, with a progress bar -> [results]."""
    found = loaded(items, nthread if len(items) else 0, collate_fn=function)
    return list(tqdm(found, title, len(items), unit=' images',
                     disable=None if len(items) else True))


def loaded(dataset, nthread, hint='', **how):
    """Yield the items of a dataset, loaded by `nthread` workers; `how` as DataLoader takes it. An
    InputError or RunError of a worker is raised here in its own words, with `hint` after them."""
    warnings.filterwarnings('ignore', 'This DataLoader will create')    # as many as were asked for
    try:
        yield from DataLoader(dataset, None, num_workers=nthread, generator=torch.Generator(),
                              **how)        # the generator leaves torch's own alone
    except (InputError, RunError) as e:
        last = str(e).strip().splitlines()[-1]
        raise type(e)(last.split(f'{type(e).__name__}: ')[-1] + hint) from None


def is_broken(path):
    """Return whether an image file is missing or cannot be read."""
    try:
        read_image(path)
    except InputError:
        return True
    return False


def broken(images, nthread):
    """Open all images -> which of them are missing or cannot be read, bool (N,). images: names of
    files, bytes (N,), or arrays, none of which is broken."""
    if images.dtype.kind != 'S':
        return np.zeros(len(images), bool)
    return np.array(processes.from_first(
        lambda: for_each(is_broken, images, nthread, 'opening the images')), bool)


def list_broken(images, nthread):
    """Print the names of the `broken` images -> a sentence about them; '' if there are none."""
    found = images[broken(images, nthread)]
    for name in found:
        print(f'cannot be read: {printable(name)}')
    return (f'{len(found):,} of {len(images):,} images are missing or cannot be read, such as '
            f'{printable(found[0])}: replace or delete them, or leave them out with '
            f'--skip_broken') if len(found) else ''


def check_readable(images, nthread):
    """Raise an InputError, if there are `broken` images, after printing their names."""
    if said := list_broken(images, nthread):
        raise InputError(said)


def without_broken(images, nthread):
    """Leave the `broken` images out of a set, a tuple of arrays (N, ...) whose first one has the
    images, and print how many they are -> the rest. InputError, if none is left."""
    bad = broken(images[0], nthread)
    if bad.any():
        print(f'{bad.sum():,} of {len(bad):,} images are left out: they are missing or cannot be '
              f'read')
    if bad.all():
        raise InputError(f'none of {len(bad):,} images can be read, such as '
                         f'{printable(images[0][0])}')
    return tuple(a[~bad] for a in images)


def add_flags(group):
    """Add the flags about broken images, which scripts that read image files share."""
    group.add_argument('--check_data', action='store_true', help='count images and classes, open '
                       'each image, list all that are missing or cannot be read, and exit')
    group.add_argument('--skip_broken', action='store_true', help='open each image first, and '
                       'leave out those that are missing or cannot be read')
