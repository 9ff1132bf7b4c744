"""Image files in a folder per class: of ImageNet, and of any set in such folders."""
import os
import pathlib
import shlex

import numpy as np

from data import cifar_sets, lists
from utils import InputError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.ppm', '.tif', '.tiff', '.webp')


def image_folders(root, validate=0):
    """ImageNet's layout, root/{train,val}/<class>/<image> -> (train, val), each names of files and
    labels as `class_folders` gives them, and the number of classes. `validate` as in `load`."""
    *train, names = class_folders(root, 'train')
    if validate:
        return *cifar_sets.held_out(train, validate), len(names)
    *val, others = class_folders(root, 'val')
    lists.same_classes(names, others, f'{root}/train', f'{root}/val')
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
            f'-qO- {cifar_sets.VALPREP} | bash)' if image_files(folder) else ''))
    files = [image_files(folder / name) for name in names]
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise InputError(f'{folder} has {len(empty)} classes without an image, such as {empty[0]}')
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files])
    return np.array([os.fsencode(f) for found in files for f in found]), labels, names


def image_files(folder):
    return sorted(f.path for f in os.scandir(folder)
                  if f.name.lower().endswith(IMAGES) and f.name[0] != '.')


def folders(root):
    """{train,test}/<class>/<image>, or val/ for test/; or <class>/<image>, which has no test."""
    has_train, tests = (root / 'train').is_dir(), [p for p in ('test', 'val')
                                                   if (root / p).is_dir()]
    if has_train and tests:
        *train, names = class_folders(root, 'train')
        *test, others = class_folders(root, tests[0])
        lists.same_classes(names, others, root / 'train', root / tests[0])
        return tuple(train), tuple(test), names
    if has_train and not image_files(root / 'train'):   # else a class, of vehicles
        raise InputError(f'{root} has train/, but neither test/ nor val/')
    *train, names = class_folders(root)
    return tuple(train), None, names


def folders_of(root, domain):
    """<domain>/<class>/<image> or <domain>/images/<class>/<image>."""
    folder, inner = root / domain, root / domain / 'images'
    *found, names = class_folders(inner if inner.is_dir() else folder)
    return tuple(found), names
