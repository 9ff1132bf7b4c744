"""Image files in a folder per class: of ImageNet, and of any set in such folders."""
import os
import pathlib
import shlex

import numpy as np

from data import cifar_sets, lists
from data.image_files import IMAGES
from utils import InputError, printable

# what systems and programs leave in folders of others, beside what is hidden by a dot
STRAY = {'__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information'}
PARTS = {'train', 'training', 'test', 'testing', 'val', 'valid', 'validation'}
# the script with which most people sort ImageNet's validation images into folders
VALPREP = 'https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh'
ANNOTATIONS = 'val_annotations.txt'     # of Tiny-ImageNet


def image_folders(root, validate=0):
    """Read ImageNet's layout, root/{train,val}/<class>/<image> -> (train, val), each names of files
    and labels as `class_folders` gives them, and the number of classes. `validate` as in
    `cifar_sets.load_arrays`. InputError, if that is not what is there."""
    *train, names = class_folders(root, 'train')
    if validate:
        return *cifar_sets.held_out(train, validate), len(names)
    *val, others = class_folders(root, 'val')
    lists.same_classes(names, others, f'{root}/train', f'{root}/val')
    return train, val, len(names)


def class_folders(root, part=''):
    """Read root/part/<class>/<image>, or folders below a class too, or Tiny-ImageNet's val/ ->
    names of files, bytes (N,); labels int64 (N,), the classes' places by `lists.in_order`; the
    classes' names. What is left out is counted in a line. InputError, if there are no classes, or
    some without an image."""
    folder = pathlib.Path(root, part).expanduser()
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}: it should hold a folder per class')
    if (folder / ANNOTATIONS).is_file():
        return annotated(folder)
    names = lists.in_order(d.name for d in list_folder(folder) if d.is_dir())
    if not names:
        raise InputError(f'{folder} holds no class folders' + (
            f". If these are ImageNet's images, sort them: (cd {shlex.quote(str(folder))} && wget "
            f'-qO- {VALPREP} | bash)' if images_below(folder)[0] else ''))
    files, others = zip(*(images_below(folder / name) for name in names), strict=True)
    empty = [name for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise InputError(f'{folder} has {len(empty)} classes without an image, such as {empty[0]}: '
                         f'it should hold a folder of images for each class, and the folder above '
                         f'train/ and test/ or val/')
    others = sum(others, [])
    if others:
        print(f'{folder}: {left_out(others)}')
    labels = np.repeat(np.arange(len(names)), [len(found) for found in files])
    return lists.as_bytes(f for found in files for f in found), labels, names


def annotated(folder):
    """Read Tiny-ImageNet's val/: images/<image>, and lines 'image class ...' of its list."""
    pairs = [line.split()[:2] for line in lists.read_lines(folder / ANNOTATIONS, 'folder')]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f'{folder / ANNOTATIONS}: each line should be an image and its class')
    names = lists.in_order({name for _, name in pairs})
    label = {name: k for k, name in enumerate(names)}
    return (lists.as_bytes(f'{folder}/images/{image}' for image, _ in pairs),
            np.array([label[name] for _, name in pairs], np.int64), names)


def list_folder(folder):
    """List what a folder holds, without what is hidden or stray. InputError, if it cannot be
    read."""
    try:
        return [e for e in os.scandir(folder) if e.name[0] != '.' and e.name not in STRAY]
    except OSError as e:
        raise InputError(f'cannot read the folder {folder}: {e.strerror}') from None


def images_below(folder):
    """List the paths of the image files in a folder and in those below it, sorted, and those of all
    other files. Links to folders are not followed: they might lead back."""
    found, others = [], []
    for entry in list_folder(folder):
        if entry.is_dir(follow_symlinks=False):
            for paths, deeper in zip((found, others), images_below(entry.path), strict=True):
                paths += deeper
        elif entry.name.lower().endswith(IMAGES) and entry.is_file():
            found.append(entry.path)
        else:
            others.append(entry.path)
    return sorted(found), others


def files_named(paths):
    """List the image files that the paths of files and folders name, bytes (N,). InputError for a
    folder without images."""
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        found, others = images_below(path)
        if not found:
            raise InputError(f'{path} holds no images')
        if others:
            print(f'{path}: {left_out(others)}')
        files += found
    return lists.as_bytes(files)


def left_out(others):
    """Say how many files are left out."""
    return (f'{len(others):,} files are left out, whose names are not those of images, such as '
            f'{printable(others[0])}')


def folders(root):
    """Read {train,test}/<class>/<image>, with val/ for test/ as well, or <class>/<image>, which has
    no test set -> train, test or None, names of classes. InputError for other folders."""
    train, tests = root / 'train', [p for p in (root / 'test', root / 'val') if p.is_dir()]
    if train.is_dir() and tests:
        # Tiny-ImageNet's test/ has no labels
        test = next((p for p in tests if (p / ANNOTATIONS).is_file()), tests[0])
        *learnt, names = class_folders(train)
        *tested, others = class_folders(test)
        lists.same_classes(names, others, train, test)
        return tuple(learnt), tuple(tested), names
    if train.is_dir() and all(e.is_dir() for e in list_folder(train)):  # else a class
        raise InputError(f'{root} has train/, but neither test/ nor val/')
    *learnt, names = class_folders(root)
    if len(names) == 1:
        raise InputError(f'{root} has one folder of images, {names[0]}/: there should be a folder '
                         f'per class in it, or in its train/ and test/')
    if set(names) <= PARTS:
        raise InputError(f'{root} has {", ".join(names)}, which hold images themselves: there '
                         f'should be a folder per class in each of them')
    return tuple(learnt), None, names


def folders_of(root, domain):
    """Read <domain>/<class>/<image> or <domain>/images/<class>/<image> -> set, names of classes."""
    folder, inner = root / domain, root / domain / 'images'
    *found, names = class_folders(inner if inner.is_dir() else folder)
    return tuple(found), names
