"""Data sets that are held in memory, by name: CIFAR10, CIFAR100, shapes.

Images are uint8 (N, H, W, 3) in RGB order, labels int64 (N,). CIFAR, from
https://www.cs.toronto.edu/~kriz/cifar.html, is read from a folder or downloaded.
"""
import functools
import io
import pathlib
import pickle

import numpy as np

from data import shapes
from system.downloads import download_file, unpack
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


def load_arrays(name, root='.', validate=0):
    """Load the data set `name` from the folder `root` -> training and test set, each (images,
    labels), and the number of classes. If `validate` > 0, that many training images are `held_out`
    and returned in place of the test set. InputError, if the data set is missing or damaged."""
    train, test, classes = SETS[name](root)
    return *(held_out(train, validate) if validate else (train, test)), classes


def draw_shapes(root):
    """Draw the training and test set of `shapes`, which needs no folder."""
    sets = (shapes.shapes(n, seed)[:2] for seed, n in enumerate(shapes.SHAPES_COUNTS.values()))
    return *sets, len(shapes.SHAPES)


def load_cifar(name, root):
    """Read both parts of CIFAR10 or CIFAR100, which is downloaded if need be."""
    folder = cifar_folder(name, root)
    return *(cifar(name, folder, part) for part in COUNTS), CIFAR[name]['classes']


# name -> function of the folder --dataroot that gives training and test set, each (images, labels),
# and the number of classes
SETS = {**{name: functools.partial(load_cifar, name) for name in CIFAR}, 'shapes': draw_shapes}


def held_out(train, n):
    """Take n images out of a training set, a tuple of arrays, the same ones in every run -> the
    rest, the n images. InputError, unless both have images."""
    if not 0 < n < len(train[1]):
        raise InputError(f'--validate {n}: give a number between 1 and {len(train[1]) - 1}, the '
                         f'training images less one')
    order = np.random.default_rng(0).permutation(len(train[1]))
    return tuple(a[order[n:]] for a in train), tuple(a[order[:n]] for a in train)


# ---- CIFAR ------------------------------------------------------------------------------------

def cifar_folder(name, root, make=False):
    """Find the folder of CIFAR's batches: `root` itself, or one below it, into which they are
    downloaded if need be. InputError, if that fails, or without a root, unless `make` is true."""
    spec = CIFAR[name]
    root = pathlib.Path(root).expanduser()
    if all((root / file).is_file() for part in COUNTS for file in spec[part]):
        return root
    folder = root / spec['folder']
    if not make and not root.is_dir():       # mistyped, perhaps
        raise InputError(f'there is no folder {root}: --dataroot is the one that holds '
                         f'{spec["folder"]}, or into which it is to be downloaded')
    if not folder.exists():
        archive = download_file(spec['url'], root, spec['sha256'])
        unpack(archive, root)
    return folder


def cifar(name, folder, part):
    """Read the part 'train' or 'test' of CIFAR -> images, labels. InputError, if they are wrong."""
    spec = CIFAR[name]
    images, labels = [], []
    for file in spec[part]:
        batch = unpickle(folder / file)
        try:
            data, target = batch[b'data'], np.asarray(batch[spec['labels']])
            good = (data.shape == (len(target), 3072) and data.dtype == np.uint8
                    and target.dtype.kind == 'i' and target.ndim == 1 and len(target) > 0
                    and 0 <= target.min() and target.max() < spec['classes'])
        except (KeyError, TypeError, AttributeError, ValueError):
            good = False
        if not good:
            raise InputError(f'{folder / file} is not a batch of {name}: it should hold uint8 data '
                             f'(N, 3072) and N labels from 0 to {spec["classes"] - 1}. Delete the '
                             f'folder to have it downloaded again')
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(target)
    images, labels = np.concatenate(images), np.concatenate(labels).astype(np.int64)
    if len(labels) != COUNTS[part]:
        raise InputError(f'{folder} holds {len(labels)} {part} images of {name} instead of '
                         f'{COUNTS[part]}. Delete the folder to have it downloaded again')
    return images, labels


def unpickle(path):
    """Load a batch file of arrays, lists, dicts, strings and numbers. InputError for all else."""
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding='bytes').load()
    except Exception as e:      # a damaged pickle raises nearly anything
        raise InputError(f'cannot read {path}: {getattr(e, "strerror", e)}. Delete its folder to '
                         f'have it downloaded again, or name another --dataroot') from None


class PlainUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain values, and refuses everything else."""

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
