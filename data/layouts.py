"""The official layouts of fine-tuning's data sets. A function of the folder gives training and test
set, as in image_sets.py, and the names of the classes."""
import json
import os
import re

import numpy as np
import scipy.io

from data import folder_sets, lists
from data.official import OFFICE_CLASSES, remedy
from utils import InputError


def dogs(root):
    """Read Stanford Dogs: Images/<class>/<image> and {train,test}_list.mat, also in lists/."""
    files = [f'{part}_list.mat' for part in ('train', 'test')]
    paths = [lists.first_of(root / file, root / 'lists' / file) for file in files]
    return lists.from_lists('dogs', root / 'Images', {path: dogs_list(path) for path in paths})


def dogs_list(path):
    """Read a list in MATLAB's format -> names 'class/image'. Its labels are not needed: they number
    the classes in the order of their names. InputError, if the list is empty or damaged."""
    lists.present(path, 'dogs')
    try:
        images = [str(cell.item()) for cell in scipy.io.loadmat(path)['file_list'].ravel()]
    except Exception as e:      # a damaged file raises nearly anything
        raise InputError(f'cannot read {path}: {type(e).__name__}, {e}: {remedy("dogs")}') from None
    if not images:
        raise InputError(f'{path} is empty: {remedy("dogs")}')
    return images


# list -> what follows the number in its lines
CUB = {'classes': r'\S.*', 'images': r'\S.*', 'image_class_labels': r'\d{1,9}',
       'train_test_split': '[01]', 'bounding_boxes': r'-?\d+(\.\d+)?(\s+-?\d+(\.\d+)?){3}'}


def cub(root):
    """Read CUB_200_2011/, or its content, as the README in it describes."""
    home = root if (root / 'images.txt').exists() else root / 'CUB_200_2011'
    classes, images, labels, training, boxes = cub_tables(home)
    files, labels = lists.labelled(
        ((f'{home}/images/{f}', int(labels[k])) for k, f in images.items()), classes)
    boxes = np.array([box.split() for box in boxes.values()], float)
    training = np.array([t == '1' for t in training.values()])
    train, test = (tuple(a[part] for a in (files, labels, boxes)) for part in (training, ~training))
    return train, test, list(classes.values())


def cub_tables(home):
    """Read CUB's tables -> {number: name} of the classes; {number: text} of the images' files,
    classes, parts and boxes; all sorted. InputError, if one names other images or classes."""
    classes, images, *others = (by_number(home / f'{t}.txt', form) for t, form in CUB.items())
    for table, name in zip(others, list(CUB)[2:], strict=True):
        differing = sorted(set(table) ^ set(images))
        if differing:
            raise InputError(f'{home / name}.txt and images.txt do not name the same images; the '
                             f'first that differs is {differing[0]}: {remedy("cub")}')
    unknown = sorted({int(k) for k in others[0].values()} - set(classes))
    if unknown:
        raise InputError(f'{home}/image_class_labels.txt names class {unknown[0]}, which '
                         f'classes.txt does not: {remedy("cub")}')
    return classes, images, *others


def by_number(path, form):
    """Read lines 'number rest' -> {number: rest}, sorted by number. InputError, if a number comes
    again, or `rest` does not match the pattern `form`."""
    table = {}
    for line in lists.read_lines(path, 'cub'):
        found = re.fullmatch(rf'(\d{{1,9}})\s+({form})', line, re.ASCII)
        if not found or int(found[1]) in table:
            raise InputError(f'{path}: the line {line!r} '
                             f'{"repeats a number" if found else "is damaged"}: {remedy("cub")}')
        table[int(found[1])] = found[2]
    return dict(sorted(table.items()))


def mit67(root):
    """Read MIT Indoor 67: Images/<class>/<image>, TrainImages.txt and TestImages.txt."""
    paths = [root / 'TrainImages.txt', root / 'TestImages.txt']
    return lists.from_lists('mit67', root / 'Images',
                            {path: lists.read_lines(path, 'mit67') for path in paths})


def caltech256(root, n):
    """Read 256_ObjectCategories/<NNN.name>/<NNN_IIII.jpg>, or its content. The first n images of
    each class are for training, 61 to 80 for testing, as in Li et al., 'Explicit inductive bias for
    transfer learning with convolutional networks', 2018 (L2-SP). InputError, if any are missing."""
    name = f'caltech256-{n}'
    home = lists.first_of(root / '256_ObjectCategories', root)
    inside = sorted(os.scandir(home), key=os.fspath) if home.is_dir() else []
    images = {d.name: caltech256_images(d.path) for d in inside
              if re.fullmatch(r'\d{3}\..+', d.name) and d.is_dir()}
    if not images:
        raise InputError(f'there are no class folders such as 001.ak47 in {home}: {remedy(name)}')
    return numbered(images, 1, n, name), numbered(images, 61, 80, name), list(images)


def caltech256_images(folder):
    """List a class's images, {number: file}, without strays such as RENAME2 among the dogs."""
    pattern = re.compile(rf'{os.path.basename(folder)[:3]}_(\d{{4}})\.jpg')
    found = filter(None, map(pattern.fullmatch, sorted(lists.listing(folder))))
    return {int(m[1]): f'{folder}/{m[0]}' for m in found}


def numbered(images, low, high, name):
    """Make a set of images {class: {number: file}} low to high. InputError for a class of none."""
    files = {c: [f for k, f in found.items() if low <= k <= high] for c, found in images.items()}
    empty = [c for c, found in files.items() if not found]
    if empty:
        raise InputError(f'{len(empty)} classes, the first one {empty[0]}, have no images of '
                         f'numbers {low} to {high}: {remedy(name)}')
    return lists.labelled(((f, c) for c, found in files.items() for f in found), files)


def food101(root):
    """Read food-101/, or its content: images/<class>/<image>.jpg, meta/{train,test}.{txt,json}."""
    home = root if (root / 'meta').exists() else root / 'food-101'
    return lists.from_lists('food101', home / 'images', dict(
        food101_list(home / 'meta' / part) for part in ('train', 'test')))


def food101_list(base):
    """Read a list of Food-101 -> its path, the files in it. InputError, if it is damaged."""
    path = lists.first_of(base.with_suffix('.txt'), base.with_suffix('.json'))
    if path.suffix == '.txt':
        images = lists.read_lines(path, 'food101')
    else:
        try:
            found = json.loads(lists.read_text(path, 'food101')).values()
            images = [os.fsdecode(os.fsencode(image)) for of_class in found for image in of_class]
        except (ValueError, AttributeError, TypeError):
            images = []
        if not images:
            raise InputError(f'{path} is not a list of images by class: {remedy("food101")}')
    return path, [f'{image}.jpg' for image in images]


def office31(root, domain):
    """Read a domain of Office-31 -> set, names of classes. InputError, if classes are missing."""
    lists.present(root / domain, 'office31')
    found, names = folder_sets.folders_of(root, domain)
    if len(names) != OFFICE_CLASSES:
        raise InputError(f'{root / domain} has {len(names)} class folders, but Office-31 has '
                         f'{OFFICE_CLASSES}: {remedy("office31")}')
    return found, names
