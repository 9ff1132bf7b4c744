"""The data sets of fine-tuning, by flags and by name: lists of files, or images.

A set is a tuple of arrays of equal length: names of image files, bytes (N,), and labels, int64
(N,), from 0. Those of CUB have a third, bounding boxes, float (N, 4): x, y, width and height in
pixels. CIFAR and `shapes` have images, uint8 (N, H, W, 3), in place of names.
"""
import functools
import os
import pathlib

import numpy as np

from data import cifar_sets, folder_sets, image_files, layouts, lists, shapes
from data.official import EXPECTED, OFFICE, download_set, remedy
from system import processes
from utils import InputError

# name -> function of the folder that gives train, test, names of classes
READERS = {'dogs': layouts.dogs, 'cub': layouts.cub, 'mit67': layouts.mit67,
           'caltech256-30': functools.partial(layouts.caltech256, n=30),
           'caltech256-60': functools.partial(layouts.caltech256, n=60),
           'food101': layouts.food101, 'folder': folder_sets.folders,
           'list': lambda root: lists.read_lists(root, 'train', 'test')}
# name -> function of the folder and a domain that gives a set, names of classes
DOMAINS = {'office31': layouts.office31, 'folder': folder_sets.folders_of, 'list': lists.read_lists}
NAMES = tuple({**READERS, **DOMAINS, **cifar_sets.SETS})


# ---- by flags -----------------------------------------------------------------------------------

def add_flags(group):
    """Add the flags that name a data set and the images to train and test on, for `read_sets`."""
    group.add_argument('--dataset', default='folder', choices=NAMES, help='folder: '
                       'train/ and test/ or val/ of class folders; list: train.txt and test.txt, a '
                       'path and a label in each line')
    group.add_argument('--dataroot', default='.', metavar='DIR', help='folder of the data set')
    group.add_argument('--domain', default='', help='train on this part of the data '
                       'set: amazon, dslr or webcam of office31, shifted of shapes, a subfolder or '
                       'a list in --dataroot; without --target the rest of it is the test set '
                       '(shapes have their own)')
    group.add_argument('--target', default='', metavar='DOMAIN', help='test on all of this '
                       'other part, to which ddc and dan adapt without its labels')
    group.add_argument('--shift', default=0, type=float, metavar='X', help='shapes: how much '
                       'less contrast and more noise the target has, 0 to 1; with --domain shifted '
                       'these images are trained on')
    group.add_argument('--per_class', default=0, type=int, metavar='N', help='train on N '
                       'images of each class, drawn by --seed; 0: all')
    group.add_argument('--fraction', default=0, type=float, metavar='X', help='train on this '
                       'fraction of each class, drawn by --seed; 0: all')
    group.add_argument('--download', action='store_true', help='first download dogs, cub, '
                       'caltech256 or food101 into --dataroot')
    image_files.add_flags(group)


def fetch(opt):
    """Download the data set, if that is asked for."""
    if opt.download:
        with processes.first_alone():
            download_set(opt.dataset, opt.dataroot)


def read_sets(opt):
    """Read the sets that the options name -> {'train', 'validation', 'test', 'target': set or
    None; 'tests_rest': whether the test images are left over from training}, the names of the
    classes. InputError, if the data set is missing, damaged or too small, or has no test images."""
    fetch(opt)
    train, test, target, names = load_sets(
        opt.dataset, opt.dataroot, opt.domain, opt.target, opt.shift, opt.skip_broken)
    if opt.skip_broken:
        once = {id(s): s for s in (train, test, target) if s}   # the target may be the test set
        kept = {k: image_files.without_broken(s, opt.nthread) for k, s in once.items()}
        train, test, target = (kept.get(id(s)) for s in (train, test, target))
    tests_rest = test is None
    if opt.per_class or opt.fraction:
        train, rest = subset(train, opt.per_class, opt.fraction, opt.seed)
        test = rest if tests_rest else test
    if test is None:
        raise InputError(f'{opt.dataset} in {opt.dataroot} has no test images: give --target, or '
                         f'--per_class or --fraction, to test on the rest')
    validation = None
    if opt.validate:
        train, validation = cifar_sets.held_out(train, opt.validate)
    return dict(train=train, validation=validation, test=test, target=target,
                tests_rest=tests_rest), names


# ---- by name ------------------------------------------------------------------------------------

def load_sets(name, root, domain='', target='', shift=0., allow_missing=False):
    """Load the data set `name` from the folder `root` -> training, test and target set, names of
    classes.

    Of a data set with domains, `domain` is the training set, and `target` both the test set and,
    for adaptation, the target set; without one, both are None. With a `shift`, test and target set
    of `shapes` are `shapes.shifted`; with the `domain` 'shifted', training and test set are, and
    there is no target set. InputError, if lists are missing or wrong, or if images are missing,
    unless `allow_missing`.
    """
    check_choice(name, domain, target, shift)
    root = pathlib.Path(root).expanduser()
    if name in cifar_sets.SETS:
        return sets_in_memory(name, root, domain, shift)
    train, test, names = sets_of_files(name, root, domain, target)
    for files, *_ in filter(None, () if allow_missing else (train, test)):
        lists.check_there(files, name)
    return train, test, test if target else None, names


def sets_of_files(name, root, domain, target):
    """Read a data set of files -> training set, test set or None, names of classes."""
    if not domain:
        return READERS[name](root)
    if not target:
        train, names = DOMAINS[name](root, domain)
        return train, None, names
    if name == 'list':
        return lists.read_lists(root, domain, target)
    (train, names), (test, others) = (DOMAINS[name](root, part) for part in (domain, target))
    lists.same_classes(names, others, domain, target)
    return train, test, names


def check_choice(name, domain, target, shift):
    """Raise an InputError, if the arguments of `load_sets` do not go together."""
    if name == 'shapes' and domain == 'shifted' and not target:
        if not shift:
            raise InputError('--domain shifted of shapes needs --shift, which says by how much')
    elif name not in DOMAINS and (domain or target):
        own = 'no domain but --domain shifted' if name == 'shapes' else 'no domains'
        raise InputError(f'{name} has {own}: leave out --domain and --target; the data sets with '
                         f'domains are {", ".join(DOMAINS)}')
    if name == 'office31' and not domain:
        raise InputError(f'office31 needs --domain, one of {", ".join(OFFICE)}')
    if target and domain in ('', target):
        raise InputError('--target needs another --domain, to train on')
    for given in filter(None, (domain, target)):
        if name == 'office31' and given not in OFFICE:
            raise InputError(f'office31 has no domain {given}: choose from {", ".join(OFFICE)}')
        if given == '.' or '..' in given or set(given) & set('/\\\0'):
            raise InputError(f'domain {given!r}: give the name of a folder or a list below '
                             f'--dataroot, not a path')
    if shift and name != 'shapes':
        raise InputError(f'--shift {shift:g} is for shapes only, not for {name}')
    if not 0 <= shift <= 1:
        raise InputError(f'--shift {shift:g}: give a number from 0 to 1')


def sets_in_memory(name, root, domain, shift):
    """Load a data set that is held in memory -> training, test and target set, names of classes."""
    train, test, classes = cifar_sets.load_arrays(name, root)
    names = list(shapes.SHAPES) if name == 'shapes' else [str(k) for k in range(classes)]
    if not shift:
        return train, test, None, names
    target, test = ((shapes.shifted(images, shift, seed), labels)
                    for seed, (images, labels) in enumerate((train, test)))
    return (target, test, None, names) if domain else (train, test, target, names)


def check_sets(name, root, domain='', target='', shift=0., nthread=0):
    """Print how many images and classes a data set has and, if it is an official one, should have,
    and which images cannot be read. InputError, if counts differ, or any image cannot be read."""
    train, test, target_set, names = load_sets(name, root, domain, target, shift, True)
    if domain and name in DOMAINS:
        parts = {f'{name} {domain}': {'images': train}, f'{name} {target}': {'images': test}}
    else:
        parts = {name: {'training images': train, 'shifted training images': target_set,
                        'test images': test}}
    wrong = []
    for title, sets in parts.items():
        found = {what: len(s[1]) for what, s in sets.items() if s}
        if found:
            wrong += print_counts(title, root, found | {'classes': len(names)})
    said = image_files.list_broken(np.concatenate([s[0] for s in (train, test) if s]), nthread)
    if wrong:
        said = (f'{root} does not hold what {name} should be, but {", ".join(wrong)}: '
                f'{remedy(name)}{"; " if said else ""}{said}')
    if said:
        raise InputError(said)


def print_counts(title, root, found):
    """Print counts, {what is counted: number}, and those expected -> what differs, in words."""
    expected = EXPECTED.get(title, tuple(found.values()))
    words = [f' ({n:,}{" expected" * (i == 0)})' * (title in EXPECTED)
             for i, n in enumerate(expected)]
    print(f'{title} in {root}: ' + ', '.join(
        f'{n:,} {what}{word}' for (what, n), word in zip(found.items(), words, strict=True)))
    return [f'{n:,} {what} instead of {right:,}'
            for (what, n), right in zip(found.items(), expected, strict=True) if n != right]


def subset(train, per_class=0, fraction=0., seed=0):
    """Draw `per_class` images of each class of a set, or a `fraction`, rounded, but at least one ->
    what was drawn, the rest, both in the order of the set. With the same seed, a larger draw holds
    the smaller ones. InputError, if a class has too few images."""
    chosen, rng = np.zeros(len(train[1]), bool), np.random.default_rng(seed)
    for label in np.unique(train[1]):
        places = rng.permutation(np.flatnonzero(train[1] == label))
        if per_class > len(places):
            first = train[0][places[0]]
            which = f'{label}, with {os.fsdecode(first)},' if isinstance(first, bytes) else label
            raise InputError(f'class {which} has {len(places)} images, fewer than {per_class}')
        chosen[places[:per_class or max(1, int(fraction * len(places) + .5))]] = True
    return tuple(a[chosen] for a in train), tuple(a[~chosen] for a in train)
