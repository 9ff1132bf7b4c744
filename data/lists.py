"""Sets of images from lists: text files with a name, or a name and a label, in each line."""
import functools
import os
import re

import numpy as np

from data.official import remedy
from utils import InputError, printable

# ---- text files ---------------------------------------------------------------------------------

def present(path, name):
    """Return the path, if it exists. Otherwise an InputError says where to get data set `name`."""
    if not path.exists():
        raise InputError(f'there is no {path}: {remedy(name)}')
    return path


def first_of(*paths):
    """Return the first of the paths that exists, or else the first one."""
    return next((p for p in paths if p.exists()), paths[0])


def read_text(path, name):
    """Read a text file of the data set `name`. InputError, if it is missing or not text."""
    try:
        text = present(path, name).read_text('utf-8-sig', 'surrogateescape')
    except OSError as e:
        raise InputError(f'cannot read {path}: {e.strerror}') from None
    if '\0' in text:
        raise InputError(f'{path} is not text: {remedy(name)}')
    return text


def read_lines(path, name):
    """Read the lines of a data set's text file, stripped, not blank. InputError, if it has none."""
    lines = [line for line in map(str.strip, read_text(path, name).split('\n')) if line]
    if not lines:
        raise InputError(f'{path} is empty: {remedy(name)}')
    return lines


# ---- files, labels, names of classes ------------------------------------------------------------

def listing(folder):
    """Return the names of a folder's files, none if it is missing. InputError, if unreadable."""
    try:
        with os.scandir(folder) as found:
            return {e.name for e in found if e.is_file()}
    except (FileNotFoundError, NotADirectoryError, ValueError):     # the last: no name of a folder
        return set()
    except OSError as e:
        raise InputError(f'cannot read the folder {folder}: {e.strerror}') from None


def check_there(files, name):
    """Raise an InputError, if one of the files of the data set `name`, bytes (N,), is missing."""
    in_folder = functools.cache(listing)       # a look at each file would take minutes on a network
    missing = [f for f in files if os.path.basename(f) not in in_folder(os.path.dirname(f))]
    if missing:
        raise InputError(f'{len(missing):,} of {len(files):,} images are missing, the first one '
                         f'{printable(missing[0])}: {remedy(name)}')


def as_bytes(files):
    """Make an array of bytes (N,) of names of files."""
    return np.array([os.fsencode(f) for f in files])


def labelled(pairs, classes):
    """Make a set, names of files and labels, of pairs (file, its class); the labels are the places
    of the classes among `classes`."""
    label = {c: k for k, c in enumerate(classes)}
    files, its = zip(*pairs, strict=True)
    return as_bytes(files), np.array([label[c] for c in its], np.int64)


def folder_names(paths, labels):
    """Name labels by their files' folders, {label: name}; {} unless these tell the labels apart."""
    pairs = {(int(label), os.path.basename(os.path.dirname(path)))
             for path, label in zip(paths, labels, strict=True)}
    names = dict(sorted(pairs))
    apart = len(pairs) == len(names) == len(set(names.values())) and '' not in names.values()
    return names if apart else {}


def in_order(names):
    """Sort names of classes as labels count: as numbers, if all are without leading zeros."""
    names = list(names)
    numbers = all(re.fullmatch('0|[1-9][0-9]*', name) for name in names)
    return sorted(names, key=int if numbers else None)


def same_classes(names, others, one, other):
    """Raise an InputError, if parts of a data set, called `one` and `other`, differ in classes."""
    differing = sorted(set(names) ^ set(others))
    if differing:
        raise InputError(f'{one} has {len(names)} classes, {other} {len(others)}; they must have '
                         f'the same ones, but {differing[0]} is in '
                         f'{one if differing[0] in names else other} only')


# ---- sets ---------------------------------------------------------------------------------------

def from_lists(name, folder, lists):
    """Make training and test set of the data set `name` from two lists, {path: names 'class/file'
    below `folder`} -> train, test, names of classes. InputError, if these differ."""
    classes = {path: in_order({os.path.dirname(f) for f in files}) for path, files in lists.items()}
    for path, names in classes.items():
        if '' in names:
            raise InputError(f'{path}: each image should be class/image: {remedy(name)}')
    same_classes(*classes.values(), *classes)
    train, test = (labelled(((f'{folder}/{f}', os.path.dirname(f)) for f in files), names)
                   for files in lists.values())
    return train, test, names


def read_list(root, domain):
    """Read <domain>.txt, in `root` or image_list/, with lines 'path label' -> (names of files,
    labels), `folder_names`. A path is absolute or below `root`, and may hold spaces. InputError for
    other lines."""
    path = first_of(root / f'{domain}.txt', root / 'image_list' / f'{domain}.txt')
    lines = read_lines(path, 'list')
    pairs = [re.fullmatch(r'(.*\S)\s+(\d{1,9})', line, re.ASCII) for line in lines]
    if None in pairs:
        raise InputError(f'{path}: the line {lines[pairs.index(None)]!r} should be a path and a '
                         f'label, an integer from 0')
    images, labels = [m[1] for m in pairs], np.array([int(m[2]) for m in pairs], np.int64)
    return (as_bytes(os.path.join(root, f) for f in images), labels), folder_names(images, labels)


def read_lists(root, *domains):
    """Make a set of each domain's list, as `read_list` reads it -> *sets, names of classes: their
    folders, or the labels, if folders do not tell classes apart. A list may lack classes of others,
    as in partial and open-set domain adaptation; a line says so. InputError, if labels have gaps,
    or one folder stands for two classes."""
    sets, names = zip(*(read_list(root, domain) for domain in domains), strict=True)
    first = {}      # the label of each folder, and the list that says so
    for domain, its in zip(domains, names, strict=True):
        for k, name in its.items():
            label, where = first.setdefault(name, (k, domain))
            if label != k:
                raise InputError(f'{name} is class {label} in {where}.txt and class {k} in '
                                 f'{domain}.txt')
    labels = np.unique(np.concatenate([its for _, its in sets]))
    n = len(labels)
    wrong = np.flatnonzero(labels != np.arange(n))
    if len(wrong):
        where = ' and '.join(f'{domain}.txt' for domain in domains)
        raise InputError(f'{where}: its labels must run from 0 without gaps, but there is '
                         f'{labels[wrong[0]]} where {wrong[0]} should be')
    for domain, (_, its) in zip(domains, sets, strict=True):
        if len(np.unique(its)) < n:
            print(f'{domain}.txt has images of {len(np.unique(its))} of the {n} classes')
    folders = {k: name for its in reversed(names) for k, name in its.items()}
    known = len(folders) == len(set(folders.values())) == n
    return *sets, [folders[k] if known else str(k) for k in range(n)]
