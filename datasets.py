"""Data sets: what they hold, and from where.

As arrays, images uint8 (N, H, W, 3) in RGB order and labels int64 (N,): CIFAR10 and CIFAR100 from
https://www.cs.toronto.edu/~kriz/cifar.html, read from a folder or downloaded; `shapes`, drawn here,
needs no file at all. As names of files and labels: a folder per class, as of ImageNet.
"""
import io
import os
import pathlib
import pickle
import shlex

import cv2
import numpy as np

from downloads import download, unpack
from utils import InputError

# sha256 of the archives, as Keras and others publish them
CIFAR = {
    'CIFAR10': dict(
        url='https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz',
        sha256='6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce',
        folder='cifar-10-batches-py', labels=b'labels', classes=10,
        train=[f'data_batch_{k}' for k in range(1, 6)], test=['test_batch']),
    'CIFAR100': dict(
        url='https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz',
        sha256='85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7',
        folder='cifar-100-python', labels=b'fine_labels', classes=100,
        train=['train'], test=['test']),
}
COUNTS = {'train': 50000, 'test': 10000}
NAMES = [*CIFAR, 'shapes']
# of CIFAR-10, grey levels; the published code uses them for CIFAR-100 too
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def load(name, root='.', validate=0):
    """The data set `name` below the folder `root` -> (train, test), each (images, labels), and
    the number of classes.

    `validate` > 0 takes that many training images, the same ones in every run, out of the
    training set and returns them as the test set.
    """
    if name == 'shapes':
        sets = [shapes(n, seed)[:2] for seed, n in enumerate(SHAPES_COUNTS.values())]
        classes = len(SHAPES)
    else:
        folder, classes = cifar_folder(name, root), CIFAR[name]['classes']
        sets = [cifar(name, folder, part) for part in COUNTS]
    train, test = sets
    return *(held_out(train, validate) if validate else (train, test)), classes


def held_out(train, n):
    """The training set (images, labels) without n images, the same ones in every run, and those."""
    if not 0 < n < len(train[1]):
        raise InputError(f'--validate {n}: give a number between 1 and {len(train[1]) - 1}, the '
                         f'training images less one')
    order = np.random.default_rng(0).permutation(len(train[1]))
    return tuple(a[order[n:]] for a in train), tuple(a[order[:n]] for a in train)


# ---- CIFAR ------------------------------------------------------------------------------------

def cifar_folder(name, root):
    """The folder of CIFAR's batches below `root`; downloaded and unpacked when it is not there."""
    spec = CIFAR[name]
    root = pathlib.Path(root).expanduser()
    folder = root / spec['folder']
    if not folder.exists():
        archive = download(spec['url'], root, spec['sha256'])
        unpack(archive, root)
    return folder


def cifar(name, folder, part):
    """One part ('train' or 'test') of CIFAR, checked for shapes, counts and labels."""
    spec = CIFAR[name]
    images, labels = [], []
    for file in spec[part]:
        path = folder / file
        batch = unpickle(path)
        try:
            data, target = batch[b'data'], np.asarray(batch[spec['labels']])
            good = (data.shape == (len(target), 3072) and data.dtype == np.uint8
                    and target.dtype.kind == 'i' and target.ndim == 1 and len(target) > 0
                    and 0 <= target.min() and target.max() < spec['classes'])
        except (KeyError, TypeError, AttributeError, ValueError):
            good = False
        if not good:
            raise InputError(f'{path} is no batch of {name}: it should hold uint8 data (N, 3072) '
                             f'and N labels from 0 to {spec["classes"] - 1}. Delete the folder to '
                             f'have it downloaded again')
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(target)
    images, labels = np.concatenate(images), np.concatenate(labels).astype(np.int64)
    if len(labels) != COUNTS[part]:
        raise InputError(f'{folder} holds {len(labels)} {part} images of {name} instead of '
                         f'{COUNTS[part]}. Delete the folder to have it downloaded again')
    return images, labels


def unpickle(path):
    """What a batch file holds, if that is arrays, lists, dicts, strings and numbers only."""
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding='bytes').load()
    except OSError as e:
        raise InputError(f'cannot read {path}: {e.strerror}. Delete its folder to have it '
                         f'downloaded again, or name another one with --dataroot') from None
    except Exception as e:      # a damaged pickle raises nearly anything
        raise InputError(f'cannot read {path}: {e}. Delete its folder to have it downloaded '
                         f'again') from None


class PlainUnpickler(pickle.Unpickler):
    """Knows the few names of which pickled numpy arrays are made, and refuses all others."""

    ALLOWED = {
        '_reconstruct': np.empty(0).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
        'ndarray': np.ndarray,
        'dtype': np.dtype,
        'encode': lambda text, encoding: text.encode('latin1'),
    }

    def find_class(self, module, name):
        modules = {'numpy', 'numpy.core.multiarray', 'numpy._core.multiarray', '_codecs'}
        if module in modules and name in self.ALLOWED:
            return self.ALLOWED[name]
        raise pickle.UnpicklingError(f'it carries code ({module}.{name}), which no data batch does')


# ---- a folder per class -------------------------------------------------------------------------

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.ppm', '.tif', '.tiff', '.webp')
# sorts ImageNet's validation images into folders; the one that the ecosystem uses
VALPREP = 'https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh'


def image_folders(root, validate=0):
    """ImageNet's layout, root/{train,val}/<class>/<image> -> (train, val), each names of files and
    labels as `class_folders` gives them, and the number of classes. `validate` as in `load`."""
    *train, names = class_folders(root, 'train')
    if validate:
        return *held_out(train, validate), len(names)
    *val, others = class_folders(root, 'val')
    if names != others:
        differing = sorted(set(names) ^ set(others))
        raise InputError(f'{root}: train/ has {len(names)} classes, val/ {len(others)}; '
                         f'{", ".join(differing[:3])} {"is" if len(differing) == 1 else "are"} '
                         f'in one of them only')
    return train, val, len(names)


def class_folders(root, part=''):
    """root/part/<class>/<image> -> names of files, bytes (N,); labels int64 (N,), the classes'
    places in alphabetical order; the classes' names."""
    folder = pathlib.Path(root, part).expanduser()
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: it should hold a folder per class')
    names = sorted(d.name for d in os.scandir(folder) if d.is_dir() and d.name[0] != '.')
    if not names:
        raise InputError(f'{folder} holds no class folders' + (
            f". If these are ImageNet's images, sort them: (cd {shlex.quote(str(folder))} && wget "
            f'-qO- {VALPREP} | bash)' if image_files(folder) else ''))
    files = [image_files(folder / name) for name in names]
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise InputError(f'{folder} has {len(empty)} classes without an image, such as {empty[0]}')
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files])
    return np.array([os.fsencode(f) for found in files for f in found]), labels, names


def image_files(folder):
    return sorted(f.path for f in os.scandir(folder)
                  if f.name.lower().endswith(IMAGES) and f.name[0] != '.')


# ---- shapes -----------------------------------------------------------------------------------

SHAPES_COUNTS = {'train': 5000, 'test': 1000}


def regular(n, start=0.):
    """The n corners of a regular polygon on the unit circle, (n, 2)."""
    angle = start + 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def star(n, inner):
    points = regular(2 * n)
    points[1::2] *= inner
    return points


def crescent():
    outer = regular(40)[5:36]
    inner = outer[::-1] * [.55, .85] + [.25, 0]
    return np.concatenate([outer, inner])


CIRCLE = regular(40)
CROSS = np.array([(1, .33), (.33, .33), (.33, 1), (-.33, 1), (-.33, .33), (-1, .33), (-1, -.33),
                  (-.33, -.33), (-.33, -1), (.33, -1), (.33, -.33), (1, -.33)])
ARROW = np.array([(1, 0), (.1, .8), (.1, .3), (-1, .3), (-1, -.3), (.1, -.3), (.1, -.8)])
# name -> outlines, filled by the even-odd rule
SHAPES = {
    'circle': [CIRCLE], 'triangle': [regular(3)], 'square': [regular(4)],
    'pentagon': [regular(5)], 'hexagon': [regular(6)], 'star': [star(5, .45)], 'cross': [CROSS],
    'ring': [CIRCLE, CIRCLE * .55], 'crescent': [crescent()], 'arrow': [ARROW],
}


def fill(outlines, size, scale=4):
    """Coverage, 0 to 1, of each of size x size pixels by outlines given in pixels."""
    canvas = np.zeros((size * scale, size * scale), np.uint8)
    points = [np.round((o * scale - .5) * 16).astype(np.int32) for o in outlines]
    cv2.fillPoly(canvas, points, 255, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) / np.float32(255)


def place(outlines, rng, centre, radius):
    """Outlines turned, squeezed a little, scaled to `radius` and moved to `centre`."""
    turn = rng.uniform(0, 2 * np.pi)
    squeeze = np.array([1, rng.uniform(.8, 1)])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [(o * squeeze) @ rotation.T * radius + centre for o in outlines]


def texture(rng, size, grain, contrast):
    """Smooth noise, (size, size, 3), of zero mean; `contrast` is its deviation in grey levels."""
    noise = rng.normal(0, contrast, (grain, grain, 3)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def draw(rng, label, size):
    """One image, uint8 (size, size, 3), and the mask of its shape, bool (size, size)."""
    ground = rng.uniform(30, 225, 3)
    image = ground + texture(rng, size, int(rng.integers(3, 9)), rng.uniform(5, 30))
    for _ in range(int(rng.integers(1, 6))):        # distractors: small polygons of no class
        blob = [rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2))]
        blob = place(blob, rng, rng.uniform(0, size, 2), size * rng.uniform(.06, .16))
        image += fill(blob, size)[..., None] * (rng.uniform(0, 255, 3) - image)
    radius = size * rng.uniform(.26, .42)
    outlines = place(list(SHAPES.values())[label], rng,
                     rng.uniform(.8 * radius, size - .8 * radius, 2), radius)
    alpha = fill(outlines, size)
    colour = rng.uniform(0, 255, 3)
    colour += (np.sign(127 - ground.mean()) * rng.uniform(50, 90) + ground.mean()
               - colour.mean())     # so much brighter or darker than the ground
    colour = colour + texture(rng, size, int(rng.integers(2, 6)), rng.uniform(5, 20))
    image += alpha[..., None] * (colour - image)
    image += rng.normal(0, rng.uniform(0, 8), image.shape)
    return image.clip(0, 255).astype(np.uint8), alpha > .5


def shapes(n, seed=0, size=32):
    """`n` images of ten classes of shapes (the keys of SHAPES), in turn: random place, size,
    rotation and colour, on textured clutter among distractors.

    -> images uint8 (n, size, size, 3), labels int64 (n,), masks bool (n, size, size) of the
    shape. Image i depends on `seed`, i and `size` alone.
    """
    labels = np.arange(n) % len(SHAPES)
    drawn = [draw(np.random.default_rng([seed, i]), label, size) for i, label in enumerate(labels)]
    images, masks = (np.stack(a) for a in zip(*drawn, strict=True))
    return images, labels.astype(np.int64), masks


def shifted(images, shift, seed=0):
    """Another domain of the same images, uint8 (N, H, W, 3), the same ones in every run: contrast
    around grey level 127 times 1 - shift, and Gaussian noise of deviation 60 * shift grey levels.
    `shift` is 0 to 1."""
    if not 0 <= shift <= 1:
        raise InputError(f'--shift {shift:g}: give a number from 0 to 1')
    x = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    x *= 60 * shift
    x += 127 + (1 - shift) * (images.astype(np.float32) - 127)
    return x.round().clip(0, 255).astype(np.uint8)


def write_shapes(root, counts=SHAPES_COUNTS, size=64):
    """Write `shapes` as JPEG files in ImageNet's layout, root/{train,val}/<shape>/<number>.jpg."""
    for seed, (part, n) in enumerate(zip(('train', 'val'), counts.values(), strict=True)):
        images, labels, _ = shapes(n, seed, size)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = pathlib.Path(root, part, list(SHAPES)[label], f'{i:05}.jpg')
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image[..., ::-1])
