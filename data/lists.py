"""Sets of images by text files: lines of names, of names and labels; the names of classes."""
import functools
import os
import re

import numpy as np

from data.published import source
from utils import InputError

# ---- text files ---------------------------------------------------------------------------------

def present(path, name):
    if not path.exists():
        raise InputError(f'there is no {path}: {source(name)}')
    return path


def first_of(*paths):
    """The first path at which there is something, else the first one."""
    return next((p for p in paths if p.exists()), paths[0])


def read_text(path, name):
    try:
        text = present(path, name).read_text('utf-8-sig', 'surrogateescape')
    except OSError as e:
        raise InputError(f'cannot read {path}: {e.strerror}') from None
    if '\0' in text:
        raise InputError(f'{path} is no text: {source(name)}')
    return text


def read_lines(path, name):
    """The lines of a text file without the spaces around them; blank ones are left out."""
    lines = [line for line in map(str.strip, read_text(path, name).split('\n')) if line]
    if not lines:
        raise InputError(f'{path} is empty: {source(name)}')
    return lines


# ---- files, labels, names of classes ------------------------------------------------------------

def listing(folder):
    """The names of the files in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if e.is_file()}
    except (FileNotFoundError, NotADirectoryError, ValueError):     # the last: no name of a folder
        return set()
    except OSError as e:
        raise InputError(f'cannot read the folder {folder}: {e.strerror}') from None


def checked(files, origin, name):
    """Names of files, all of which must be there -> bytes (N,). `origin`: the list of them."""
    in_folder = functools.cache(listing)       # a look at each file would take minutes on a network
    missing = [f for f in files if os.path.basename(f) not in in_folder(os.path.dirname(f))]
    if missing:
        raise InputError(f'{len(missing):,} of the {len(files):,} images that {origin} names are '
                         f'missing, the first one {missing[0]}: {source(name)}')
    return np.array([os.fsencode(f) for f in files])


def check_labels(labels, path, first=0):
    """Refuse labels of a list that do not run from `first`, which is 0 here, without gaps."""
    found = np.unique(labels)
    wrong = np.flatnonzero(found != np.arange(len(found)))
    if len(wrong):
        raise InputError(f'{path}: its labels must run from {first} without gaps, but there is '
                         f'{found[wrong[0]] + first} where {wrong[0] + first} should be')


def folder_names(paths, labels):
    """The name of the folder of each label's files; [] if that does not tell the labels apart."""
    pairs = {(int(label), os.path.basename(os.path.dirname(path)))
             for path, label in zip(paths, labels, strict=True)}
    names = dict(pairs)
    apart = len(pairs) == len(names) == len(set(names.values())) and '' not in names.values()
    return [names[label] for label in sorted(names)] if apart else []


def same_classes(names, others, one, other, exact=True):
    """Refuse two parts, called `one` and `other`, of different classes. Those of lists, not
    `exact`, may be called differently, but not be the same ones in another order."""
    differing = sorted(set(names) ^ set(others))
    if names == others or not exact and differing and len(names) == len(others):
        return
    if differing:
        first = f'{differing[0]} is in {one if differing[0] in names else other} only'
    else:
        k = next(k for k, (a, b) in enumerate(zip(names, others, strict=True)) if a != b)
        first = f'class {k} is {names[k]} in {one} and {others[k]} in {other}'
    raise InputError(f'{one} has {len(names)} classes, {other} {len(others)}; they must have the '
                     f'same ones, but {first}')


# ---- sets ---------------------------------------------------------------------------------------

def from_lists(name, folder, lists):
    """`lists`, of training and of testing: path of the list -> names 'class/file' below `folder`.
    -> train, test, names of classes in alphabetical order."""
    (one, names), (other, others) = (
        (path, sorted({os.path.dirname(f) for f in files})) for path, files in lists.items())
    for path, classes in ((one, names), (other, others)):
        if not classes[0]:
            raise InputError(f'{path}: each line should be class/image: {source(name)}')
    same_classes(names, others, one, other)
    label = {c: k for k, c in enumerate(names)}
    train, test = ((checked([f'{folder}/{f}' for f in files], path, name),
                    np.array([label[os.path.dirname(f)] for f in files], np.int64))
                   for path, files in lists.items())
    return train, test, names


def parts(root):
    """train.txt and test.txt, here or in image_list/, as `list_of` reads them."""
    (train, names), (test, others) = (list_of(root, part) for part in ('train', 'test'))
    same_classes(names, others, 'train.txt', 'test.txt', exact=False)
    return train, test, names


def list_of(root, domain):
    """<domain>.txt, here or in image_list/, of lines 'path label': the path, below root or
    absolute, may hold spaces. Classes are called as their folders, or as their labels where folders
    do not tell them apart."""
    path = first_of(root / f'{domain}.txt', root / 'image_list' / f'{domain}.txt')
    lines = read_lines(path, 'list')
    pairs = [re.fullmatch(r'(.*\S)\s+(\d{1,9})', line, re.ASCII) for line in lines]
    if None in pairs:
        raise InputError(f'{path}: the line {lines[pairs.index(None)]!r} should be a path and a '
                         f'label, an integer from 0')
    images, labels = [m[1] for m in pairs], np.array([int(m[2]) for m in pairs], np.int64)
    check_labels(labels, path)
    files = checked([os.path.join(root, f) for f in images], path, 'list')
    names = folder_names(images, labels) or [str(k) for k in range(labels.max() + 1)]
    return (files, labels), names
