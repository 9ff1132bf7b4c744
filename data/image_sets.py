"""The data sets of fine-tuning as lists of files, from their official layouts and lists.

A set is a tuple of arrays of equal length: names of image files, bytes (N,), and labels, int64
(N,), from 0. Those of CUB have a third, bounding boxes, float (N, 4): x, y, width and height in
pixels. CIFAR and `shapes` have images, uint8 (N, H, W, 3), in place of names.

  dogs        Khosla et al., 'Novel dataset for fine-grained image categorization', 2011
  cub         Wah et al., 'The Caltech-UCSD Birds-200-2011 dataset', 2011
  mit67       Quattoni & Torralba, 'Recognizing indoor scenes', 2009
  caltech256  Griffin et al., 'Caltech-256 object category dataset', 2007; the first 30 or 60 images
              of each class for training, 61 to 80 for testing, as in Li et al., 'Explicit inductive
              bias for transfer learning with convolutional networks', 2018 (L2-SP)
  food101     Bossard et al., 'Food-101 - mining discriminative components with random forests',
              2014
  office31    Saenko et al., 'Adapting visual category models to new domains', 2010
  folder      anything with a folder per class
  list        anything with text files of lines 'path label'
"""
import functools
import json
import os
import pathlib
import re

import numpy as np

from data import cifar_sets, downloads, folder_sets, shapes
from utils import InputError

NAMES = ('dogs', 'cub', 'mit67', 'caltech256-30', 'caltech256-60', 'food101', 'office31', 'folder',
         'list', 'CIFAR10', 'CIFAR100', 'shapes')
OFFICE = ('amazon', 'dslr', 'webcam')
OFFICE_CLASSES = 31
# images for training and for testing, classes; the domains of Office-31 are not divided
EXPECTED = {
    'dogs': (12000, 8580, 120), 'cub': (5994, 5794, 200), 'mit67': (5360, 1340, 67),
    'caltech256-30': (7710, 5140, 257), 'caltech256-60': (15420, 5140, 257),
    'food101': (75750, 25250, 101), 'office31 amazon': (2817, 0, OFFICE_CLASSES),
    'office31 webcam': (795, 0, OFFICE_CLASSES), 'office31 dslr': (498, 0, OFFICE_CLASSES),
}

STANFORD = 'http://vision.stanford.edu/aditya86/ImageNetDogs'
CALTECH = 'https://data.caltech.edu/records'
CIFAR_PAGE = 'https://www.cs.toronto.edu/~kriz/cifar.html'
PAGES = {
    'dogs': f'{STANFORD}/', 'cub': f'{CALTECH}/65de6-vp158',
    'mit67': 'https://web.mit.edu/torralba/www/indoor.html',
    'caltech256-30': f'{CALTECH}/nyy15-4j048', 'caltech256-60': f'{CALTECH}/nyy15-4j048',
    'food101': 'https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/',
    'office31': 'https://faculty.cc.gatech.edu/~judy/domainadapt/',
    'CIFAR10': CIFAR_PAGE, 'CIFAR100': CIFAR_PAGE,
}
CALTECH256 = (
    f'{CALTECH}/nyy15-4j048/files/256_ObjectCategories.tar',
    '08ff01b03c65566014ae88eb0490dbe4419fc7ac4de726ee1163e39fd809543e',
    '256_ObjectCategories', '001.ak47')
# address, sha256 as TensorFlow Datasets and torchvision publish it, what appears below the root,
# and where else it may lie already
DOWNLOADS = {
    'dogs': [
        (f'{STANFORD}/lists.tar',
         '34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c',
         'train_list.mat', 'lists/train_list.mat'),
        (f'{STANFORD}/images.tar',
         'a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58', 'Images')],
    'cub': [
        (f'{CALTECH}/65de6-vp158/files/CUB_200_2011.tgz',
         '0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081',
         'CUB_200_2011', 'images.txt')],
    'caltech256-30': [CALTECH256], 'caltech256-60': [CALTECH256],
    'food101': [
        ('http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz',
         'd97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4', 'food-101', 'meta')],
}


def load(name, root, domain='', target='', shift=0.):
    """The data set `name` below the folder `root` -> (train, test, target_set, names of classes).

    Of a data set with domains, `domain` is for training and `target`, if given, for adaptation
    without its labels and for testing: test and target_set are all of it, otherwise None. For
    `shapes`, shift > 0 makes the target: the images of training and testing, `shapes.shifted`.
    """
    check_choice(name, domain, target, shift)
    root = pathlib.Path(root).expanduser()
    if name not in READERS and name not in DOMAINS:
        return arrays(name, root, shift)
    if not domain:
        train, test, names = READERS[name](root)
        return train, test, None, names
    train, names = DOMAINS[name](root, domain)
    if not target:
        return train, None, None, names
    test, others = DOMAINS[name](root, target)
    same_classes(names, others, domain, target, exact=name != 'list')
    return train, test, test, names


def check_choice(name, domain, target, shift):
    """Refuse what does not go together, before any file is looked for."""
    if name not in NAMES:
        raise InputError(f'there is no data set {name}: choose from {", ".join(NAMES)}')
    if name not in DOMAINS and (domain or target):
        raise InputError(f'{name} has no domains: leave out --domain and --target, or choose from '
                         f'{", ".join(DOMAINS)}')
    if name == 'office31' and not domain:
        raise InputError(f'office31 needs --domain, one of {", ".join(OFFICE)}')
    if target and domain in ('', target):
        raise InputError('--target needs another --domain beside it, which training uses')
    for given in filter(None, (domain, target)):
        check_domain(name, given)
    if shift and name != 'shapes':
        raise InputError(f'--shift {shift:g} is for shapes only, not for {name}')
    if not 0 <= shift <= 1:
        raise InputError(f'--shift {shift:g}: give a number from 0 to 1')


def check_domain(name, domain):
    if name == 'office31' and domain not in OFFICE:
        raise InputError(f'office31 has no domain {domain}: choose from {", ".join(OFFICE)}')
    if domain == '.' or '..' in domain or set(domain) & set('/\\\0'):
        raise InputError(f'domain {domain!r}: give the name of a folder or a list below --dataroot,'
                         f' not a path')


def arrays(name, root, shift):
    train, test, classes = cifar_sets.load(name, root)
    names = list(shapes.SHAPES) if name == 'shapes' else [str(k) for k in range(classes)]
    if not shift:
        return train, test, None, names
    target, test = ((shapes.shifted(images, shift, seed), labels)
                    for seed, (images, labels) in enumerate((train, test)))
    return train, test, target, names


# ---- what the readers share ---------------------------------------------------------------------

def source(name):
    """What to do when something of a data set is missing."""
    if name not in PAGES:
        return 'name the folder that holds it with --dataroot'
    return f'get {name} from {PAGES[name]}{" or with --download" if name in DOWNLOADS else ""}'


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


# ---- the readers: root -> train, test, names of classes -----------------------------------------

def dogs(root):
    """Images/<class>/<image> and {train,test}_list.mat, here or in lists/."""
    (train, names, one), (test, others, other) = (dogs_part(root, f'{part}_list.mat')
                                                  for part in ('train', 'test'))
    same_classes(names, others, one, other)
    return train, test, names


def dogs_part(root, file):
    path = first_of(root / file, root / 'lists' / file)
    images, labels = dogs_list(present(path, 'dogs'))
    check_labels(labels, path, first=1)
    names = folder_names(images, labels)
    if not names:
        raise InputError(f'{path}: labels and folders do not go together: {source("dogs")}')
    return (checked([f'{root}/Images/{f}' for f in images], path, 'dogs'), labels), names, path


def dogs_list(path):
    """A list in MATLAB's format -> names 'class/image', labels from 0."""
    import scipy.io  # nothing else needs it

    try:
        lists = scipy.io.loadmat(path)
        images = [str(cell.item()) for cell in lists['file_list'].ravel()]
        labels = lists['labels'].ravel().astype(np.int64) - 1
    except Exception as e:      # a damaged file raises nearly anything
        raise InputError(f'cannot read {path}: {type(e).__name__}, {e}: {source("dogs")}') from None
    if not len(images) == len(labels) > 0:
        raise InputError(f'{path} has {len(images)} images and {len(labels)} labels: '
                         f'{source("dogs")}')
    return images, labels


# list -> what follows the number in its lines
CUB = {'classes': r'\S.*', 'images': r'\S.*', 'image_class_labels': r'\d{1,9}',
       'train_test_split': '[01]', 'bounding_boxes': r'-?\d+(\.\d+)?(\s+-?\d+(\.\d+)?){3}'}


def cub(root):
    """CUB_200_2011/, or its content, as its README describes it."""
    home = root if (root / 'images.txt').exists() else root / 'CUB_200_2011'
    classes, images, labels, training, boxes = cub_tables(home)
    number = {key: k for k, key in enumerate(classes)}
    labels = np.array([number[int(k)] for k in labels.values()], np.int64)
    files = checked([f'{home}/images/{f}' for f in images.values()], home / 'images.txt', 'cub')
    boxes = np.array([box.split() for box in boxes.values()], float)
    training = np.array([t == '1' for t in training.values()])
    train, test = (tuple(a[part] for a in (files, labels, boxes)) for part in (training, ~training))
    return train, test, list(classes.values())


def cub_tables(home):
    """The classes, and the images' files, classes, parts and boxes: dicts in the order of their
    keys, the numbers of classes and of images; those of images have the same keys."""
    classes, images, *others = (by_number(home / f'{t}.txt', form) for t, form in CUB.items())
    for table, name in zip(others, list(CUB)[2:], strict=True):
        differing = sorted(set(table) ^ set(images))
        if differing:
            raise InputError(f'{home / name}.txt and images.txt do not name the same images; the '
                             f'first that differs is {differing[0]}: {source("cub")}')
    unknown = sorted({int(k) for k in others[0].values()} - set(classes))
    if unknown:
        raise InputError(f'{home}/image_class_labels.txt names class {unknown[0]}, which '
                         f'classes.txt does not: {source("cub")}')
    return classes, images, *others


def by_number(path, form):
    """Lines 'number rest' -> {number: rest}, by number; each `rest` has the form of a pattern."""
    table = {}
    for line in read_lines(path, 'cub'):
        found = re.fullmatch(rf'(\d{{1,9}})\s+({form})', line, re.ASCII)
        if not found or int(found[1]) in table:
            raise InputError(f'{path}: the line {line!r} '
                             f'{"repeats a number" if found else "is damaged"}: {source("cub")}')
        table[int(found[1])] = found[2]
    return dict(sorted(table.items()))


def mit67(root):
    """Images/<class>/<image>, TrainImages.txt and TestImages.txt."""
    lists = [root / 'TrainImages.txt', root / 'TestImages.txt']
    return from_lists('mit67', root / 'Images', {p: read_lines(p, 'mit67') for p in lists})


def caltech256(root, n):
    """256_ObjectCategories/<NNN.name>/<NNN_IIII.jpg>, or its content; n images for training."""
    name = f'caltech256-{n}'
    home = first_of(root / '256_ObjectCategories', root)
    inside = sorted(os.scandir(home), key=os.fspath) if home.is_dir() else []
    images = {d.name: caltech256_images(d.path) for d in inside
              if re.fullmatch(r'\d{3}\..+', d.name) and d.is_dir()}
    if not images:
        raise InputError(f'there are no class folders such as 001.ak47 in {home}: {source(name)}')
    return numbered(images, 1, n, name), numbered(images, 61, 80, name), list(images)


def caltech256_images(folder):
    """A class's images by number. There are also strays: RENAME2, greg/ among the dogs."""
    pattern = re.compile(rf'{os.path.basename(folder)[:3]}_(\d{{4}})\.jpg')
    found = filter(None, map(pattern.fullmatch, sorted(listing(folder))))
    return {int(m[1]): f'{folder}/{m[0]}' for m in found}


def numbered(images, low, high, name):
    """The set of those images, {class: {number: file}}, whose numbers are low to high."""
    files = {c: [f for k, f in found.items() if low <= k <= high] for c, found in images.items()}
    empty = [c for c, found in files.items() if not found]
    if empty:
        raise InputError(f'{len(empty)} classes, the first one {empty[0]}, have no images of '
                         f'numbers {low} to {high}: {source(name)}')
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    return np.array([os.fsencode(f) for found in files.values() for f in found]), labels


def food101(root):
    """food-101/, or its content: images/<class>/<image>.jpg, meta/{train,test}.{txt,json}."""
    home = root if (root / 'meta').exists() else root / 'food-101'
    return from_lists('food101', home / 'images', dict(food101_list(home / 'meta' / part)
                                                       for part in ('train', 'test')))


def food101_list(base):
    """The path of a list, and the names of files in it."""
    path = first_of(base.with_suffix('.txt'), base.with_suffix('.json'))
    if path.suffix == '.txt':
        images = read_lines(path, 'food101')
    else:
        try:
            images = [image for of_class in json.loads(read_text(path, 'food101')).values()
                      for image in of_class]
        except (ValueError, AttributeError, TypeError):
            images = []
        if not images or not all(isinstance(image, str) for image in images):
            raise InputError(f'{path} is no list of images by class: {source("food101")}')
    return path, [f'{image}.jpg' for image in images]


def folders(root):
    """{train,test}/<class>/<image>, or val/ for test/; or <class>/<image>, which has no test."""
    has_train, tests = (root / 'train').is_dir(), [p for p in ('test', 'val')
                                                   if (root / p).is_dir()]
    if has_train and tests:
        *train, names = folder_sets.class_folders(root, 'train')
        *test, others = folder_sets.class_folders(root, tests[0])
        same_classes(names, others, root / 'train', root / tests[0])
        return tuple(train), tuple(test), names
    if has_train and not folder_sets.image_files(root / 'train'):   # else a class, of vehicles
        raise InputError(f'{root} has train/, but neither test/ nor val/')
    *train, names = folder_sets.class_folders(root)
    return tuple(train), None, names


def lists(root):
    """train.txt and test.txt, here or in image_list/, as `list_of` reads them."""
    (train, names), (test, others) = (list_of(root, part) for part in ('train', 'test'))
    same_classes(names, others, 'train.txt', 'test.txt', exact=False)
    return train, test, names


# ---- readers of a domain: root, domain -> set, names of classes ---------------------------------

def folders_of(root, domain):
    """<domain>/<class>/<image> or <domain>/images/<class>/<image>."""
    folder, inner = root / domain, root / domain / 'images'
    *found, names = folder_sets.class_folders(inner if inner.is_dir() else folder)
    return tuple(found), names


def office31(root, domain):
    present(root / domain, 'office31')
    found, names = folders_of(root, domain)
    if len(names) != OFFICE_CLASSES:
        raise InputError(f'{root / domain} has {len(names)} class folders, but Office-31 has '
                         f'{OFFICE_CLASSES}: {source("office31")}')
    return found, names


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


READERS = {'dogs': dogs, 'cub': cub, 'mit67': mit67, 'food101': food101, 'folder': folders,
           'list': lists, 'caltech256-30': functools.partial(caltech256, n=30),
           'caltech256-60': functools.partial(caltech256, n=60)}
DOMAINS = {'office31': office31, 'folder': folders_of, 'list': list_of}


# ---- checks and downloads -----------------------------------------------------------------------

def check_data(name, root, domain='', target='', shift=0.):
    """Print how many images and classes there are and, for official data sets, should be; refuse
    what differs. No image is opened."""
    train, test, target_set, names = load(name, root, domain, target, shift)
    if domain:
        parts = {f'{name} {domain}': {'images': train}, f'{name} {target}': {'images': test}}
    else:
        parts = {name: {'training images': train, 'shifted training images': target_set,
                        'test images': test}}
    wrong = []
    for title, sets in parts.items():
        found = {what: len(s[1]) for what, s in sets.items() if s is not None}
        if found:
            wrong += report(title, root, found | {'classes': len(names)})
    if wrong:
        raise InputError(f'{root} does not hold what {name} should be, but {", ".join(wrong)}: '
                         f'{source(name)}')


def report(title, root, found):
    """Print counts, and what is expected -> what differs, in words."""
    expected = [n for n in EXPECTED.get(title, ()) if n] or [None] * len(found)
    words = ['' if n is None else f' ({n:,} expected)' if i == 0 else f' ({n:,})'
             for i, n in enumerate(expected)]
    print(f'{title} in {root}: ' + ', '.join(
        f'{n:,} {what}{word}' for (what, n), word in zip(found.items(), words, strict=True)))
    return [f'{n:,} {what} instead of {right:,}'
            for (what, n), right in zip(found.items(), expected, strict=True)
            if right not in (None, n)]


def download(name, root):
    """Fetch what is not below the folder `root` yet, and unpack it there."""
    root = pathlib.Path(root).expanduser()
    if name in cifar_sets.CIFAR:
        cifar_sets.cifar_folder(name, root)
    elif name not in DOWNLOADS:
        raise InputError(f'there is no --download for {name}: {source(name)}')
    for url, sha256, *places in DOWNLOADS.get(name, ()):
        if not any((root / place).exists() for place in places):
            downloads.unpack(downloads.download(url, root, sha256), root)


# ---- parts of a set -----------------------------------------------------------------------------

def subset(train, per_class=0, fraction=0., seed=0):
    """A random part of a set, balanced over classes -> (chosen, rest), sets of the same form and
    order: `per_class` images of each class or a `fraction` of them, rounded, at least one. With the
    same seed, a larger part holds the smaller ones."""
    if bool(per_class) == bool(fraction) or per_class < 0 or not 0 <= fraction <= 1:
        raise InputError(f'{per_class} images per class and a fraction of {fraction:g}: give one '
                         f'of them, a number from 1 or a fraction of at most 1')
    chosen, rng = np.zeros(len(train[1]), bool), np.random.default_rng(seed)
    for label in np.unique(train[1]):
        places = rng.permutation(np.flatnonzero(train[1] == label))
        if per_class > len(places):
            raise InputError(f'class {label}{example(train, places[0])} has {len(places)} images, '
                             f'fewer than {per_class}')
        chosen[places[:per_class or max(1, int(fraction * len(places) + .5))]] = True
    return tuple(a[chosen] for a in train), tuple(a[~chosen] for a in train)


def example(train, i):
    return f', with {os.fsdecode(train[0][i])},' if train[0].dtype.kind == 'S' else ''
