"""Image files in a folder for each class, as ImageNet and most people's own data sets have them."""
import os
import pathlib
import shlex

import numpy as np

from data import cifar_sets, image_files, lists
from utils import InputError, printable

# what systems and programs leave in folders, besides what a dot hides
STRAY = {'__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information'}
NAMES_OF_PARTS = {'train', 'training', 'test', 'testing', 'val', 'valid', 'validation'}
# the script with which most people sort ImageNet's validation images into folders
VALPREP = 'https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh'
ANNOTATIONS = 'val_annotations.txt'     # of Tiny-ImageNet


def image_folders(root, validate=0):
    """Read ImageNet's layout, root/{train,val}/<class>/<image> -> training and test set, each names
    of files and labels, and the number of classes. If `validate` > 0, that many training images are
    held out and returned in place of the test set. InputError for other folders."""
    *train, names = class_folders(root, 'train')
    if validate:
        return *cifar_sets.held_out(train, validate), len(names)
    *val, others = class_folders(root, 'val')
    lists.same_classes(names, others, f'{root}/train', f'{root}/val')
    return train, val, len(names)


def check_image_folders(root, nthread):
    """Print how many images and classes `image_folders` finds, and which images cannot be read.
    InputError, if there are any of these."""
    train, val, classes = image_folders(root)
    print(f'{root}: {len(train[1]):,} training images, {len(val[1]):,} test images, '
          f'{classes:,} classes')
    image_files.check_readable(np.concatenate([train[0], val[0]]), nthread)


def class_folders(root, part=''):
    """Read root/part/<class>/<image>, with or without folders below a class, or Tiny-ImageNet's
    val/ -> names of files, bytes (N,); labels, int64 (N,); names of classes, `lists.in_order`. A
    line says how many files are left out. InputError, if there are no classes, or empty ones."""
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
    below = {name: images_below(folder / name) for name in names}
    empty = [name for name, (found, _) in below.items() if not found]
    if empty:
        raise InputError(f'{folder} has {len(empty)} classes without an image, such as {empty[0]}: '
                         f'it should hold a folder of images for each class, or train/ and test/ '
                         f'or val/ with such folders; --dataset names other data sets')
    print_left_out(folder, [f for _, others in below.values() for f in others])
    return *lists.labelled(((f, c) for c, (found, _) in below.items() for f in found), names), names


def annotated(folder):
    """Read Tiny-ImageNet's val/, images/<image> and a list of lines 'image class ...', as
    `class_folders` does. InputError for other lines."""
    pairs = [line.split()[:2] for line in lists.read_lines(folder / ANNOTATIONS, 'folder')]
    if not all(len(pair) == 2 for pair in pairs):
        raise InputError(f'{folder / ANNOTATIONS}: each line should be an image and its class')
    names = lists.in_order({name for _, name in pairs})
    return *lists.labelled(((f'{folder}/images/{f}', name) for f, name in pairs), names), names


def list_folder(folder):
    """List a folder's entries, but for hidden and STRAY ones. InputError, if it is unreadable."""
    try:
        return [e for e in os.scandir(folder) if e.name[0] != '.' and e.name not in STRAY]
    except OSError as e:
        raise InputError(f'cannot read the folder {folder}: {e.strerror}') from None


def images_below(folder):
    """List the files in a folder and below it -> sorted paths of images, paths of all else. Links
    to folders are not followed, since they might lead back."""
    found, others = [], []
    for entry in list_folder(folder):
        if entry.is_dir(follow_symlinks=False):
            deeper = images_below(entry.path)
            found, others = found + deeper[0], others + deeper[1]
        elif entry.name.lower().endswith(image_files.IMAGES) and entry.is_file():
            found.append(entry.path)
        else:
            others.append(entry.path)
    return sorted(found), others


def files_named(paths):
    """List the images that paths stand for, bytes (N,). InputError for a folder without images, and
    for what does not exist."""
    files = []
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'there is no image or folder {path}')
        found, others = images_below(path) if os.path.isdir(path) else ([path], [])
        if not found:
            raise InputError(f'{path} holds no images')
        print_left_out(path, others)
        files += found
    return lists.as_bytes(files)


def print_left_out(folder, others):
    """Print how many files of a folder are not images by their names, unless there are none."""
    if others:
        print(f'{folder}: files left out, since their names are not those of images: '
              f'{len(others):,}, such as {printable(others[0])}')


def folders(root):
    """Read train/<class>/<image> and test/ or val/ likewise, or <class>/<image> -> training set,
    test set or None, names of classes. InputError for other folders."""
    train, tests = root / 'train', [p for p in (root / 'test', root / 'val') if p.is_dir()]
    if train.is_dir() and tests:
        # Tiny-ImageNet's test/ has no labels
        test = next((p for p in tests if (p / ANNOTATIONS).is_file()), tests[0])
        *learnt, names = class_folders(train)
        *tested, others = class_folders(test)
        lists.same_classes(names, others, train, test)
        return tuple(learnt), tuple(tested), names
    # a folder train/ of images is a class like others
    if train.is_dir() and all(e.is_dir() for e in list_folder(train)):
        raise InputError(f'{root} has train/, but neither test/ nor val/')
    *learnt, names = class_folders(root)
    if len(names) == 1:
        raise InputError(f'{root} has one folder of images, {names[0]}/: there should be a folder '
                         f'per class in it, or in its train/ and test/')
    if set(names) <= NAMES_OF_PARTS:
        raise InputError(f'{root} has {", ".join(names)}, which hold images themselves: there '
                         f'should be a folder per class in each of them')
    return tuple(learnt), None, names


def folders_of(root, domain):
    """Read <domain>/<class>/<image> or <domain>/images/<class>/<image> -> set, names of classes."""
    inner = root / domain / 'images'
    *found, names = class_folders(inner if inner.is_dir() else root / domain)
    return tuple(found), names
