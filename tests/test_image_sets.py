"""The data sets of fine-tuning: small trees in the official layouts, downloads from a local server.
"""
import hashlib
import io
import json
import os
import pathlib
import re
import tarfile

import numpy as np
import pytest
import scipy.io

from data import cifar_sets, folder_sets, image_sets, lists, official, shapes
from system import downloads
from utils import InputError

# one black pixel; MIT Indoor 67 holds such files, called .jpg
GIF = (b'GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;')


def touch(root, *names):
    for name in names:
        path = pathlib.Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(GIF)


def write(path, *lines):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines))


def shown(found, root):
    """A set as (file below root, label) pairs; checks its form."""
    files, labels = found[:2]
    assert files.dtype.kind == 'S' and labels.dtype == np.int64 and len(files) == len(labels)
    assert all(os.path.isfile(f) for f in files)
    return [(os.path.relpath(os.fsdecode(f), root), k)
            for f, k in zip(files, labels.tolist(), strict=True)]


def refused(match, name='folder', root='.', **choice):
    with pytest.raises(InputError, match=match) as e:
        image_sets.load_sets(name, root, **choice)
    assert '\n' not in str(e.value)
    return str(e.value)


# ---- the official layouts -----------------------------------------------------------------------

def write_mat(path, images, labels):
    cells = np.empty((len(images), 1), object)
    cells[:, 0] = images
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {'file_list': cells, 'annotation_list': cells,
                            'labels': np.array(labels, np.uint8)[:, None]})


def write_dogs(root, lists='.'):
    chihuahuas = [f'n02085620-Chihuahua/n02085620_{k}.jpg' for k in (7, 3, 5)]
    spaniels = [f'n02085782-Japanese_spaniel/n02085782_{k}.jpg' for k in (1, 2)]
    write_mat(root / lists / 'train_list.mat', chihuahuas[:2] + spaniels[:1], [1, 1, 2])
    write_mat(root / lists / 'test_list.mat', spaniels[1:] + chihuahuas[2:], [2, 1])
    touch(root / 'Images', *chihuahuas, *spaniels)


@pytest.mark.parametrize('lists', ['.', 'lists'])
def test_dogs(tmp_path, lists):
    write_dogs(tmp_path, lists)
    train, test, target, names = image_sets.load_sets('dogs', tmp_path)
    assert names == ['n02085620-Chihuahua', 'n02085782-Japanese_spaniel'] and target is None
    assert shown(train, tmp_path) == [('Images/n02085620-Chihuahua/n02085620_7.jpg', 0),
                                      ('Images/n02085620-Chihuahua/n02085620_3.jpg', 0),
                                      ('Images/n02085782-Japanese_spaniel/n02085782_1.jpg', 1)]
    assert [k for _, k in shown(test, tmp_path)] == [1, 0]


def test_dogs_lists_that_are_wrong(tmp_path):
    refused('no train_list.mat: get dogs from http://vision.* or with --download', 'dogs')
    write_dogs(tmp_path)
    write_mat(tmp_path / 'test_list.mat', ['n02085620-Chihuahua/n02085620_5.jpg'], [1])
    refused('train_list.mat has 2 classes, test_list.mat 1.*Japanese_spaniel is in train', 'dogs')
    write_mat(tmp_path / 'test_list.mat', ['x.jpg'], [1])
    refused('test_list.mat: each image should be class/image: get dogs', 'dogs')
    write_mat(tmp_path / 'test_list.mat', [], [])
    refused('test_list.mat is empty: get dogs', 'dogs')
    whole = (tmp_path / 'train_list.mat').read_bytes()
    for damaged in (b'', b'no matlab at all' * 20, whole[:300]):
        (tmp_path / 'test_list.mat').write_bytes(damaged)
        refused('cannot read test_list.mat.*get dogs', 'dogs')


def write_cub(home):
    """Images of numbers that are in no order, each list in an order of its own."""
    write(home / 'classes.txt', '2 002.Laysan_Albatross', '1 001.Black_footed_Albatross')
    write(home / 'images.txt',
          '12 002.Laysan_Albatross/b.jpg', '3 001.Black_footed_Albatross/a.jpg',
          '4 002.Laysan_Albatross/c.jpg', '20 001.Black_footed_Albatross/d.jpg')
    write(home / 'image_class_labels.txt', '3 1', '4 2', '12 2', '20 1')
    write(home / 'train_test_split.txt', '20 0', '12 1', '4 0', '3 1')
    write(home / 'bounding_boxes.txt', '4 4.0 0.0 9.5 9.0', '3 3.0 1.0 9.0 9.0',
          '20 20.0 0.0 9.0 9.0', '12 12.0 0.0 9.0 9.0')
    touch(home / 'images', '001.Black_footed_Albatross/a.jpg', '001.Black_footed_Albatross/d.jpg',
          '002.Laysan_Albatross/b.jpg', '002.Laysan_Albatross/c.jpg')


@pytest.mark.parametrize('home', ['.', 'CUB_200_2011'])
def test_cub_joins_by_number(tmp_path, home):
    write_cub(tmp_path / home)
    train, test, target, names = image_sets.load_sets('cub', tmp_path)
    assert names == ['001.Black_footed_Albatross', '002.Laysan_Albatross'] and target is None
    images = tmp_path / home / 'images'
    assert shown(train, images) == [('001.Black_footed_Albatross/a.jpg', 0),
                                    ('002.Laysan_Albatross/b.jpg', 1)]
    assert shown(test, images) == [('002.Laysan_Albatross/c.jpg', 1),
                                   ('001.Black_footed_Albatross/d.jpg', 0)]
    assert train[2].tolist() == [[3, 1, 9, 9], [12, 0, 9, 9]]
    assert test[2].tolist() == [[4, 0, 9.5, 9], [20, 0, 9, 9]] and test[2].dtype == float


@pytest.mark.parametrize('file, line, match', [
    ('images', '3 002.Laysan_Albatross/b.jpg', 'images.txt: the line .* repeats a number'),
    ('images', '5 002.Laysan_Albatross/c.jpg', 'labels.txt and images.txt .* differs is 5'),
    ('train_test_split', '4 2', "split.txt: the line '4 2' is damaged"),
    ('image_class_labels', '7 1', 'labels.txt and images.txt do not .* differs is 7'),
    ('bounding_boxes', '7 1 2 3', 'boxes.txt: the line .* is damaged'),
    ('bounding_boxes', '7 1 2 3 x', 'boxes.txt: the line .* is damaged'),
    ('classes', 'three', 'classes.txt: the line .* is damaged'),
])
def test_cub_lists_that_are_wrong(tmp_path, file, line, match):
    write_cub(tmp_path)
    with open(tmp_path / f'{file}.txt', 'a') as f:
        f.write(f'{line}\n')
    refused(match, 'cub')


def test_cub_without_its_lists(tmp_path):
    refused('no CUB_200_2011/classes.txt: get cub from https://data.caltech', 'cub')
    write_cub(tmp_path)
    write('image_class_labels.txt', '3 1', '4 2', '12 9', '20 1')
    refused('names class 9, which classes.txt does not', 'cub')
    os.remove('bounding_boxes.txt')
    refused('no bounding_boxes.txt', 'cub')


def write_mit67(root):
    write(root / 'TrainImages.txt', ' kitchen/a b.jpg ', '', 'bar/x.jpg')
    (root / 'TestImages.txt').write_bytes(b'kitchen/c.jpg\r\nbar/y.jpg')
    touch(root / 'Images', 'kitchen/a b.jpg', 'bar/x.jpg', 'kitchen/c.jpg', 'bar/y.jpg',
          'casino/unlisted.jpg')


def test_mit67(tmp_path):
    write_mit67(tmp_path)
    train, test, _, names = image_sets.load_sets('mit67', tmp_path)
    assert names == ['bar', 'kitchen']
    assert shown(train, 'Images') == [('kitchen/a b.jpg', 1), ('bar/x.jpg', 0)]
    assert shown(test, 'Images') == [('kitchen/c.jpg', 1), ('bar/y.jpg', 0)]


def test_mit67_lists_that_are_wrong(tmp_path):
    refused('no TrainImages.txt: get mit67 from https://web.mit.edu/.*html$', 'mit67')
    write_mit67(tmp_path)
    os.remove('Images/bar/x.jpg')
    os.rename('Images/kitchen', 'Images/Kitchen')
    refused('2 of 2 images are missing, the first one Images/kitchen/a b.jpg: get', 'mit67')
    write('TrainImages.txt', 'bar/y.jpg', 'casino/unlisted.jpg')
    refused('TrainImages.txt has 2 classes, TestImages.txt 2;.*casino is in TrainImages', 'mit67')
    write('TrainImages.txt', 'x.jpg')
    refused('each image should be class/image', 'mit67')
    write('TrainImages.txt', ' ')
    refused('TrainImages.txt is empty', 'mit67')
    write('TrainImages.txt', 'bar/\0.jpg')
    refused('TrainImages.txt is not text', 'mit67')
    os.remove('TrainImages.txt')
    os.mkdir('TrainImages.txt')
    refused('cannot read TrainImages.txt: Is a directory', 'mit67')


def write_caltech(home, classes=('001.ak47', '056.dog', '257.clutter')):
    for name in classes:
        touch(home / name, *(f'{name[:3]}_{k:04}.jpg' for k in range(1, 83)))
    touch(home, '056.dog/greg/vw_0001.jpg', '056.dog/RENAME2', '056.dog/001_0002.jpg',
          'notes/056_0001.jpg')


@pytest.mark.parametrize('home, n', [('.', 30), ('256_ObjectCategories', 60)])
def test_caltech256(tmp_path, home, n):
    write_caltech(tmp_path / home)
    train, test, _, names = image_sets.load_sets(f'caltech256-{n}', tmp_path)
    assert names == ['001.ak47', '056.dog', '257.clutter']
    assert shown(train, tmp_path / home) == [
        (f'{c}/{c[:3]}_{k:04}.jpg', i) for i, c in enumerate(names) for k in range(1, n + 1)]
    assert shown(test, tmp_path / home) == [
        (f'{c}/{c[:3]}_{k:04}.jpg', i) for i, c in enumerate(names) for k in range(61, 81)]


def test_caltech256_that_is_not_there(tmp_path):
    match = r'no class folders such as 001.ak47 in .*: get caltech256-60 .*--download'
    refused(match, 'caltech256-60')
    refused(match, 'caltech256-60', 'nowhere')
    touch('.', '001.ak47/001_0001.jpg')
    refused('1 classes, the first one 001.ak47, have no images of numbers 61 to 80',
            'caltech256-60')


def write_food(home, suffix):
    lists = {'train': ['apple_pie/1005649', 'waffles/1'], 'test': ['waffles/2', 'apple_pie/3']}
    for part, images in lists.items():
        by_class = {c: [f for f in images if f.startswith(c)] for c in ('waffles', 'apple_pie')}
        write(home / f'meta/{part}{suffix}',
              *(images if suffix == '.txt' else [json.dumps(by_class)]))
        touch(home / 'images', *(f'{f}.jpg' for f in images))


@pytest.mark.parametrize('home', ['.', 'food-101'])
@pytest.mark.parametrize('suffix', ['.txt', '.json'])
def test_food101(tmp_path, home, suffix):
    write_food(tmp_path / home, suffix)
    train, test, _, names = image_sets.load_sets('food101', tmp_path)
    assert names == ['apple_pie', 'waffles']
    images = tmp_path / home / 'images'
    assert sorted(shown(train, images)) == [('apple_pie/1005649.jpg', 0), ('waffles/1.jpg', 1)]
    assert sorted(shown(test, images)) == [('apple_pie/3.jpg', 0), ('waffles/2.jpg', 1)]


def test_food101_lists_that_are_wrong(tmp_path):
    refused('no food-101/meta/train.txt: get food101', 'food101')
    write_food(tmp_path, '.json')
    for damaged in ('{', '[1]', '{"a": 3}', '{"a": [3]}', '{}'):
        write('meta/test.json', damaged)
        refused('meta/test.json is not a list of images', 'food101')
    for odd, match in (('a\\u0000/1', '1 of 3 images are missing'), ('\\ud800/1', 'is not a list')):
        for part in ('test', 'train'):
            write(f'meta/{part}.json', f'{{"a": ["apple_pie/3", "waffles/2", "{odd}"]}}')
        refused(match, 'food101')


# ---- domains ------------------------------------------------------------------------------------

CLASSES = [f'class{k:02}' for k in range(31)]


def write_office(root):
    touch(root, *(f'amazon/images/{c}/frame_0001.jpg' for c in CLASSES),
          *(f'webcam/{c}/frame_{k:04}.jpg' for c in CLASSES for k in (2, 1)))


def test_office31(tmp_path):
    write_office(tmp_path)
    train, test, target, names = image_sets.load_sets('office31', tmp_path, 'amazon')
    assert test is None and target is None and names == CLASSES
    assert shown(train, tmp_path) == [(f'amazon/images/{c}/frame_0001.jpg', i)
                                      for i, c in enumerate(CLASSES)]
    train, test, target, _ = image_sets.load_sets('office31', tmp_path, 'amazon', 'webcam')
    assert len(shown(train, tmp_path)) == 31 and target is test
    assert shown(test, tmp_path)[:2] == [('webcam/class00/frame_0001.jpg', 0),
                                         ('webcam/class00/frame_0002.jpg', 0)]


def test_office31_that_is_wrong(tmp_path):
    refused('office31 needs --domain, one of amazon, dslr, webcam', 'office31')
    refused('no domain caltech: choose from amazon', 'office31', domain='caltech')
    refused('no domain caltech', 'office31', domain='dslr', target='caltech')
    refused('no dslr: get office31 from https://faculty', 'office31', domain='dslr')
    write_office(tmp_path)
    os.rename('webcam/class30', 'webcam/glass30')
    refused('amazon has 31 classes, webcam 31; .* class30 is in amazon only', 'office31',
            domain='amazon', target='webcam')
    touch('webcam', 'more/a.jpg')
    refused('webcam has 32 class folders, but Office-31 has 31', 'office31', domain='webcam')


@pytest.mark.parametrize('part', ['test', 'val'])
def test_folders(tmp_path, part):
    touch(tmp_path, 'train/b/1.png', 'train/a/2.jpg', 'train/a/1.jpg', f'{part}/a/1.jpg',
          f'{part}/b/1.gif')
    train, test, target, names = image_sets.load_sets('folder', tmp_path)
    assert shown(train, 'train') == [('a/1.jpg', 0), ('a/2.jpg', 0), ('b/1.png', 1)]
    assert shown(test, part) == [('a/1.jpg', 0), ('b/1.gif', 1)]
    assert names == ['a', 'b'] and target is None
    touch(part, 'c/1.jpg')
    refused(f'train has 2 classes, {part} 3; .* c is in {part} only')


def test_folder_without_parts(tmp_path):
    touch(tmp_path, 'cars/1.jpg', 'train/1.jpg')        # the class of trains
    train, test, _, names = image_sets.load_sets('folder', tmp_path)
    assert shown(train, '.') == [('cars/1.jpg', 0), ('train/1.jpg', 1)] and test is None
    os.remove('train/1.jpg')
    touch('train', 'cars/1.jpg')
    refused('has train/, but neither test/ nor val/')
    refused('no folder nowhere', root='nowhere')
    touch('loose', 'train/1.jpg', 'train/2.jpg')
    refused('loose has one folder of images, train/: there should be a folder per class in it',
            root='loose')
    touch('loose', 'valid/1.jpg')
    refused('loose has train, valid, which hold images themselves', root='loose')


def test_folders_of_numbers_are_ordered_as_numbers(tmp_path):
    touch(tmp_path, *(f'{part}/{k}/a.jpg' for part in ('train', 'val') for k in range(12)))
    train, _, _, names = image_sets.load_sets('folder', tmp_path)
    assert names == [str(k) for k in range(12)]
    assert shown(train, 'train') == [(f'{k}/a.jpg', k) for k in range(12)]
    for other in ('01', 'n01440764', '1.5', '٣'):
        found = lists.in_order(['10', '9', other])
        assert found == sorted(['10', '9', other])


def test_tiny_imagenet(tmp_path, capsys):
    touch(tmp_path, 'train/n1/images/n1_0.JPEG', 'train/n1/n1_boxes.txt', 'train/n0/images/x.JPEG',
          'test/images/test_0.JPEG', 'val/images/val_0.JPEG', 'val/images/val_1.JPEG')
    write('val/val_annotations.txt', 'val_0.JPEG\tn1\t0\t32\t44\t62', 'val_1.JPEG\tn0\t0\t1\t2\t3')
    train, test, _, names = image_sets.load_sets('folder', tmp_path)
    assert shown(train, 'train') == [('n0/images/x.JPEG', 0), ('n1/images/n1_0.JPEG', 1)]
    assert shown(test, 'val/images') == [('val_0.JPEG', 1), ('val_1.JPEG', 0)]
    assert names == ['n0', 'n1']
    said = capsys.readouterr().out
    assert re.search(f'{tmp_path}/train: files left out, .*: 1, such as', said)
    assert folder_sets.image_folders(tmp_path)[1][1].tolist() == [1, 0]
    write('val/val_annotations.txt', 'val_0.JPEG')
    refused('each line should be an image and its class')


def test_what_lies_in_folders(tmp_path, capsys):
    """Folders below a class are read; those of systems are no classes; what is no image by its
    name, or no file, is left out and counted."""
    touch(tmp_path, 'a/1.jpg', 'a/x/y/2.JFIF', 'b/3.pgm', 'a/notes.txt', 'a/.hidden.jpg',
          'b/Thumbs.db', '__MACOSX/a/._1.jpg', 'a/@eaDir/1.jpg/THUMB.jpg', '@eaDir/z.jpg',
          'lost+found/1.jpg')
    os.mkfifo('a/pipe.jpg')
    os.symlink('..', 'a/loop')
    train, _, _, names = image_sets.load_sets('folder', tmp_path)
    assert names == ['a', 'b']
    assert shown(train, '.') == [('a/1.jpg', 0), ('a/x/y/2.JFIF', 0), ('b/3.pgm', 1)]
    said = capsys.readouterr().out
    assert re.search(f'{tmp_path}: files left out, .*: 4, such as', said)


def test_folders_of_domains(tmp_path):
    touch(tmp_path, 'day/images/a/1.jpg', 'day/images/b/1.jpg', 'night/a/1.jpg', 'night/b/2.jpg')
    train, test, target, names = image_sets.load_sets('folder', tmp_path, 'day', 'night')
    assert shown(train, 'day/images') == [('a/1.jpg', 0), ('b/1.jpg', 1)] and names == ['a', 'b']
    assert shown(test, 'night') == [('a/1.jpg', 0), ('b/2.jpg', 1)] and target is test
    assert image_sets.load_sets('folder', tmp_path, 'night')[1] is None
    refused('no folder dawn', domain='day', target='dawn')
    touch('night', 'c/1.jpg')
    refused('day has 2 classes, night 3; .* c is in night only', domain='day', target='night')


@pytest.mark.parametrize('place', ['.', 'image_list'])
def test_lists(tmp_path, place):
    elsewhere = tmp_path / 'elsewhere/dog/3.jpg'
    touch(tmp_path, 'images/big cat/1 2.jpg', 'images/dog/1.jpg', elsewhere)
    root = tmp_path / 'images'
    write(root / place / 'train.txt', 'big cat/1 2.jpg 0', f'{elsewhere}\t1', '')
    write(root / place / 'test.txt', 'dog/1.jpg   1', 'big cat/1 2.jpg 0')
    train, test, target, names = image_sets.load_sets('list', root)
    assert shown(train, root) == [('big cat/1 2.jpg', 0), ('../elsewhere/dog/3.jpg', 1)]
    assert shown(test, root) == [('dog/1.jpg', 1), ('big cat/1 2.jpg', 0)]
    assert names == ['big cat', 'dog'] and target is None


@pytest.mark.parametrize('lines, names', [
    (['a/1.jpg 1', 'b/1.jpg 0'], ['b', 'a']),
    (['a/1.jpg 1', 'b/1.jpg 0', 'c/1.jpg 0'], ['0', '1']),
    (['a/1.jpg 1', 'a/2.jpg 0'], ['0', '1']),
    (['x/a/1.jpg 1', 'y/a/1.jpg 0'], ['0', '1']),
    (['1.jpg 0'], ['0']),
])
def test_names_of_classes_in_lists(tmp_path, lines, names):
    touch(tmp_path, *(line[:-2] for line in lines))
    write('all.txt', *lines)
    train, test, _, found = image_sets.load_sets('list', tmp_path, 'all')
    assert found == names and test is None and len(train[0]) == len(lines)


def test_lists_of_domains(tmp_path):
    touch(tmp_path, 'a/0.jpg', 'a/1.jpg', 'b/cat/1.jpg', 'b/dog/1.jpg')
    write('image_list/a.txt', 'a/1.jpg 1', 'a/0.jpg 0')
    write('b.txt', 'b/dog/1.jpg 1', 'b/cat/1.jpg 0')
    train, test, target, names = image_sets.load_sets('list', tmp_path, 'a', 'b')
    assert shown(train, tmp_path) == [('a/1.jpg', 1), ('a/0.jpg', 0)]
    assert shown(test, tmp_path) == [('b/dog/1.jpg', 1), ('b/cat/1.jpg', 0)] and target is test
    assert names == image_sets.load_sets('list', tmp_path, 'b', 'a')[3] == ['cat', 'dog']


@pytest.mark.parametrize('lines, match', [
    (['b/cat/1.jpg 1', 'b/dog/1.jpg 0'], 'dog is class 1 in a.txt and class 0 in b.txt'),
    (['b/cat/1.jpg 0', 'c/1.jpg 3'],
     'a.txt and b.txt: its labels must run from 0 .* 3 where 2 should'),
    (['b/cat/1.jpg 0', 'b/dog/2.jpg 1', 'b/cat/2.jpg 0'],
     '2 of 3 images are missing, the first one \\./b/dog/2.jpg: '),
    (['b/cat/1.jpg'], "b.txt: the line 'b/cat/1.jpg' should be a path and a label"),
    (['b/cat/1.jpg -1'], 'should be a path and a label'),
    (['b/cat/1.jpg 1.5'], 'should be a path and a label'),
    (['b/cat/1.jpg 10000000000'], 'should be a path and a label'),
    (['1'], 'should be a path and a label'),
])
def test_lists_that_are_wrong(tmp_path, lines, match):
    touch(tmp_path, 'a/cat/1.jpg', 'a/dog/1.jpg', 'b/cat/1.jpg', 'b/dog/1.jpg')
    write('a.txt', 'a/cat/1.jpg 0', 'a/dog/1.jpg 1')
    write('b.txt', *lines)
    refused(match, 'list', domain='a', target='b')


@pytest.mark.parametrize('lines, labels, names, said', [
    (['b/dog/1.jpg 1'], [1], ['cat', 'dog'], 'b.txt has images of 1 of the 2 classes'),
    (['b/dog/1.jpg 1', 'b/cow/1.jpg 2'], [1, 2], ['cat', 'dog', 'cow'],
     'a.txt has images of 2 of the 3 classes'),
    (['b/1.jpg 1'], [1], ['cat', 'dog'], 'b.txt has images of 1 of the 2 classes'),
])
def test_lists_for_partial_and_open_set_adaptation(tmp_path, capsys, lines, labels, names, said):
    touch(tmp_path, 'a/cat/1.jpg', 'a/dog/1.jpg', *(line[:-2] for line in lines))
    write('a.txt', 'a/cat/1.jpg 0', 'a/dog/1.jpg 1')
    write('b.txt', *lines)
    train, test, target, found = image_sets.load_sets('list', tmp_path, 'a', 'b')
    assert train[1].tolist() == [0, 1] and test[1].tolist() == labels and target is test
    assert found == names
    assert said in capsys.readouterr().out


def test_lists_that_are_missing():
    refused('no train.txt: name the folder', 'list')
    refused('no day.txt', 'list', domain='day')


@pytest.mark.parametrize('choice, match', [
    *((dict(name=name, domain='amazon'), f'{name} has no domain') for name in
      ('dogs', 'cub', 'mit67', 'caltech256-30', 'food101', 'CIFAR10', 'shapes')),
    (dict(name='CIFAR100', target='amazon'), 'CIFAR100 has no domains'),
    (dict(target='night'), '--target needs another --domain'),
    (dict(domain='night', target='night'), '--target needs another --domain'),
    *((dict(name=name, domain=domain), 'not a path') for name in ('folder', 'list')
      for domain in ('/etc', '..', '../x', 'a/b', 'a\\b', '.')),
    (dict(domain='day', target='../night'), 'not a path'),
    (dict(shift=.5), '--shift 0.5 is for shapes only'),
    (dict(name='shapes', domain='shifted'), 'needs --shift'),
    (dict(name='shapes', domain='shifted', target='plain', shift=.5), 'no domain but'),
    (dict(name='CIFAR10', shift=.5), '--shift 0.5 is for shapes only'),
    *((dict(name='shapes', shift=shift), 'from 0 to 1') for shift in (-.1, 1.1, float('nan'))),
])
def test_choices_that_are_refused(choice, match):
    refused(match, **choice)


# ---- arrays -------------------------------------------------------------------------------------

def test_shapes():
    train, test, target, names = image_sets.load_sets('shapes', '.')
    assert train[0].shape == (256, 16, 16, 3) and len(test[1]) == 64 and target is None
    assert names[:2] == ['circle', 'triangle']
    plain, moved, target, _ = image_sets.load_sets('shapes', '.', shift=.5)
    np.testing.assert_array_equal(plain[0], train[0])
    np.testing.assert_array_equal(target[0], shapes.shifted(train[0], .5))
    *sets, nothing, _ = image_sets.load_sets('shapes', '.', 'shifted', shift=.5)
    for one, other in zip(sets, (target, moved), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert nothing is None
    np.testing.assert_array_equal(target[1], train[1])
    np.testing.assert_array_equal(moved[1], test[1])
    assert moved[0].shape == test[0].shape and (moved[0] != test[0]).mean() > .9


def test_shifted():
    images = shapes.shapes(20)[0]
    np.testing.assert_array_equal(shapes.shifted(images, 0.), images)
    moved = shapes.shifted(images, .2)
    assert moved.dtype == np.uint8 and moved.shape == images.shape
    np.testing.assert_array_equal(moved[:5], shapes.shifted(images[:5], .2))
    assert (moved != shapes.shifted(images, .2, seed=1)).mean() > .9
    change = moved - (127 + .8 * (images.astype(float) - 127))
    assert abs(change.mean()) < .5 and 11 < change.std() < 12.5
    assert 55 < shapes.shifted(images, 1.).std() < 60


def test_cifar(monkeypatch):
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    monkeypatch.setattr(cifar_sets, 'load_arrays',
                        lambda name, root: ((images, labels),) * 2 + (10,))
    train, test, target, names = image_sets.load_sets('CIFAR10', '.')
    assert train[0] is images and target is None and names == [str(k) for k in range(10)]


# ---- checks and downloads -----------------------------------------------------------------------

def check(fails, *args, **choice):
    return fails(lambda argv: image_sets.check_sets(*args, **choice))


def test_check_data_says_what_differs(tmp_path, capsys):
    write_dogs(tmp_path)
    with pytest.raises(InputError, match='3 training images instead of 12,000, 2 test images '
                                         'instead of 8,580, 2 classes instead of 120: get dogs.*'
                                         'download$'):
        image_sets.check_sets('dogs', tmp_path)
    assert capsys.readouterr().out == (
        f'dogs in {tmp_path}: 3 training images (12,000 expected), 2 test images (8,580), '
        f'2 classes (120)\n')


def test_check_data_of_domains(tmp_path, capsys, monkeypatch):
    write_office(tmp_path)
    monkeypatch.setitem(official.EXPECTED, 'office31 amazon', (31, 31))
    image_sets.check_sets('office31', '.', 'amazon')
    assert capsys.readouterr().out == (
        'office31 amazon in .: 31 images (31 expected), 31 classes (31)\n')
    with pytest.raises(InputError, match='but 62 images instead of 795: get office31'):
        image_sets.check_sets('office31', '.', 'amazon', 'webcam')
    assert capsys.readouterr().out.splitlines()[1] == (
        'office31 webcam in .: 62 images (795 expected), 31 classes (31)')


def test_check_data_without_expectations(tmp_path, capsys):
    touch(tmp_path, 'a/1.jpg', 'b/1.jpg')
    image_sets.check_sets('folder', '.')
    image_sets.check_sets('shapes', '.', shift=.5)
    assert capsys.readouterr().out.splitlines() == [
        'folder in .: 2 training images, 2 classes',
        'shapes in .: 256 training images, 256 shifted training images, 64 test images, 10 classes']


def test_status_of_check_data(tmp_path, fails):
    status, said = check(fails, 'food101', tmp_path)
    assert status == 2 and 'food-101/meta/train.txt' in said and '--download' in said
    assert len(said.splitlines()) == 1
    write_mit67(tmp_path)
    os.remove('Images/bar/y.jpg')
    status, said = check(fails, 'mit67', tmp_path)
    assert status == 2 and '2 training images instead of 5,360' in said
    assert '1 of 4 images are missing or cannot be read' in said and 'Images/bar/y.jpg' in said
    assert len(said.splitlines()) == 1


def test_check_data_lists_all_broken_images(tmp_path, capsys):
    touch(tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'train/b/2.jpg', 'test/a/1.jpg',
          'test/b/1.jpg')
    for name in ('train/b/2.jpg', 'test/a/1.jpg'):
        pathlib.Path(name).write_bytes(b'no image')
    with pytest.raises(InputError, match='^2 of 5 images are missing or cannot be read, such as '
                                         '.*b/2.jpg: .*--skip_broken'):
        image_sets.check_sets('folder', tmp_path, nthread=1)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f'cannot be read: {tmp_path}/train/b/2.jpg', f'cannot be read: {tmp_path}/test/a/1.jpg']


def archive(path, *names):
    with tarfile.open(path, 'w:gz' if path.suffix == '.tgz' else 'w') as tar:
        for name in names:
            tar.add(path.parent / name, name)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path, monkeypatch, http_server):
    """The archives of dogs and CUB on a local server -> the folder in which they are."""
    folder = tmp_path / 'served'
    write_dogs(folder)
    write_cub(folder / 'CUB_200_2011')
    sums = {'lists.tar': archive(folder / 'lists.tar', 'test_list.mat', 'train_list.mat'),
            'images.tar': archive(folder / 'images.tar', 'Images'),
            'CUB_200_2011.tgz': archive(folder / 'CUB_200_2011.tgz', 'CUB_200_2011')}
    url = http_server(folder)
    for name in ('dogs', 'cub'):
        there = [(f'{url}/{file}', sums[file], *places)
                 for address, _, *places in official.DOWNLOADS[name]
                 for file in [address.rsplit('/', 1)[-1]]]
        monkeypatch.setitem(official.DOWNLOADS, name, there)
    return folder


def test_download(served, tmp_path):
    root = tmp_path / 'new/root'
    with pytest.raises(InputError, match='no folder .*/new, in which --dataroot'):
        official.download_set('dogs', root)
    root.parent.mkdir()
    for name in ('dogs', 'cub'):
        official.download_set(name, root)
        _, test, _, names = image_sets.load_sets(name, root)
        assert len(names) == 2 and len(test[0]) == 2
    for file in [f for ending in ('tar', 'tgz') for f in tmp_path.rglob(f'*.{ending}')]:
        file.unlink()
    official.download_set('dogs', root)       # nothing is left to do
    official.download_set('cub', root)


@pytest.mark.parametrize('name, writer', [
    ('cub', write_cub), ('dogs', lambda root: write_dogs(root, 'lists')),
    ('food101', lambda root: write_food(root, '.txt')), ('caltech256-60', write_caltech)])
def test_no_download_of_what_is_there(name, writer, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, 'download_file', None)
    writer(tmp_path)
    official.download_set(name, tmp_path)


def test_download_of_another_checksum(served, tmp_path, fails):
    archive(served / 'images.tar', 'lists.tar')
    status, said = fails(lambda argv: official.download_set('dogs', tmp_path / 'data'))
    assert status == 2 and 'hash' in said and 'images.tar' in said
    assert not (tmp_path / 'data/Images').exists() and not (tmp_path / 'data/images.tar').exists()


def test_what_cannot_be_downloaded(monkeypatch):
    for name, match in (('mit67', 'web.mit.edu'), ('office31', 'faculty'), ('list', '--dataroot')):
        with pytest.raises(InputError, match=f'no --download for {name}: .*{match}'):
            official.download_set(name, '.')
    asked = []
    monkeypatch.setattr(cifar_sets, 'cifar_folder', lambda *args, make: asked.append(args))
    official.download_set('CIFAR10', '.')
    assert asked == [('CIFAR10', pathlib.Path('.'))]


def test_official_archives():
    for name, files in official.DOWNLOADS.items():
        assert name in official.PAGES
        assert all(len(sha256) == 64 and url.startswith('http') for url, sha256, *_ in files)


def evil_tar(path, name, kind=tarfile.REGTYPE, link=''):
    with tarfile.open(path, 'w') as tar:
        good = tarfile.TarInfo('folder/good')
        good.size = 3
        tar.addfile(good, io.BytesIO(b'abc'))
        evil = tarfile.TarInfo(name)
        evil.type, evil.linkname = kind, link
        tar.addfile(evil)


@pytest.mark.parametrize('evil', [
    ('../evil',), ('folder/../../../evil',), ('link', tarfile.SYMTYPE, '/etc/passwd'),
    ('link', tarfile.SYMTYPE, '../..'), ('device', tarfile.CHRTYPE)])
def test_evil_archives(evil, tmp_path):
    root = tmp_path / 'a/b'
    root.mkdir(parents=True)
    evil_tar(tmp_path / 'evil.tar', *evil)
    with pytest.raises(InputError, match='cannot unpack .*evil.tar'):
        downloads.unpack(tmp_path / 'evil.tar', root)
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'b', 'evil.tar']


def test_damaged_archives(tmp_path):
    path, root = tmp_path / 'cub.tgz', tmp_path / 'root'
    root.mkdir()
    write_cub(tmp_path / 'CUB_200_2011')
    archive(path, 'CUB_200_2011')
    whole = path.read_bytes()
    middle = len(whole) // 2    # a single byte may be of a file's content, which nothing checks
    broken = whole[:middle] + b'\xff' * 100 + whole[middle + 100:]
    for damaged in (whole[:-200], whole[:40], broken, b'no archive'):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match='cannot unpack'):
            downloads.unpack(path, root)
        assert not list(root.iterdir())


# ---- subsets ------------------------------------------------------------------------------------

@pytest.fixture
def birds():
    """A set of three arrays: 10, 5 and 7 images of three classes, mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [10, 5, 7]))
    files = np.array([b'%d/%d.jpg' % (k, i) for i, k in enumerate(labels)])
    return files, labels, np.arange(4 * len(labels), dtype=float).reshape(-1, 4)


@pytest.mark.parametrize('choice, counts', [
    (dict(per_class=5), [5, 5, 5]), (dict(per_class=1), [1, 1, 1]), (dict(fraction=.5), [5, 3, 4]),
    (dict(fraction=.01), [1, 1, 1]), (dict(fraction=1), [10, 5, 7])])
def test_subset(birds, choice, counts):
    chosen, rest = image_sets.subset(birds, **choice)
    assert np.bincount(chosen[1]).tolist() == counts
    assert len(chosen[0]) + len(rest[0]) == 22 and not set(chosen[0]) & set(rest[0])
    for part in (chosen, rest):
        where = np.flatnonzero(np.isin(birds[0], part[0]))      # in the order of the set
        for a, whole in zip(part, birds, strict=True):
            np.testing.assert_array_equal(a, whole[where])


def test_draws_of_subsets(birds):
    def files(**choice):
        return image_sets.subset(birds, **choice)[0][0].tolist()
    np.random.seed(1)
    first = files(per_class=3)
    np.random.seed(2)
    assert files(per_class=3) == first and files(per_class=3, seed=1) != first
    assert set(files(per_class=2)) < set(first) < set(files(per_class=5))


def test_subsets_that_are_refused(birds):
    with pytest.raises(InputError, match=r'class 1, with 1/\d+.jpg, has 5 images, fewer than 6'):
        image_sets.subset(birds, per_class=6)
    with pytest.raises(InputError, match='class 0 has 2 images, fewer than 3'):
        image_sets.subset((np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)), per_class=3)
