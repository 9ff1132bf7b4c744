"""CIFAR from folders and downloads, and `shapes`."""
import hashlib
import os
import pathlib
import pickle
import statistics
import tarfile

import numpy as np
import pytest

import cifar
from data import cifar_sets, official, shapes
from engine import runs
from utils import InputError

COUNT = 20      # images per batch in the small copies of CIFAR that these tests write


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch):
    monkeypatch.setattr(cifar_sets, 'COUNTS', {'train': 5 * COUNT, 'test': COUNT})


def batch(n=COUNT, classes=10, seed=0, labels=b'labels'):
    rng = np.random.default_rng(seed)
    return {b'data': rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            labels: rng.integers(0, classes, n).tolist(), b'batch_label': b'batch 1 of 5'}


def write_cifar10(root, change=lambda name, content: content):
    folder = pathlib.Path(root, 'cifar-10-batches-py')
    folder.mkdir(parents=True)
    for k, name in enumerate([*cifar_sets.CIFAR['CIFAR10']['train'], 'test_batch']):
        with open(folder / name, 'wb') as f:
            pickle.dump(change(name, batch(seed=k)), f, protocol=2)
    return folder


def test_cifar10_from_a_folder(tmp_path):
    write_cifar10(tmp_path)
    (x, y), (x_test, y_test), classes = cifar_sets.load_arrays('CIFAR10', tmp_path)
    assert x.shape == (5 * COUNT, 32, 32, 3) and x_test.shape == (COUNT, 32, 32, 3)
    assert x.dtype == np.uint8 and y.dtype == np.int64 and classes == 10
    first = batch(seed=1)
    assert y[COUNT:2 * COUNT].tolist() == first[b'labels']
    red, green, blue = first[b'data'][3].reshape(3, 32, 32)
    np.testing.assert_array_equal(x[COUNT + 3], np.stack([red, green, blue], axis=2))
    (same, _), _, _ = cifar_sets.load_arrays('CIFAR10', tmp_path / 'cifar-10-batches-py')
    np.testing.assert_array_equal(same, x)


def test_cifar100_takes_the_fine_labels(tmp_path):
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    for name, n in (('train', 5 * COUNT), ('test', COUNT)):
        content = batch(n, 100, labels=b'fine_labels') | {b'coarse_labels': [0] * n}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    train, _, classes = cifar_sets.load_arrays('CIFAR100', tmp_path)
    assert classes == 100 and train[1].max() > 20


class Evil:
    def __reduce__(self):
        return os.system, ('touch hacked',)


BAD_BATCHES = {
    'no data': lambda c: {b'labels': c[b'labels']},
    'no dict': lambda c: [1, 2],
    'another shape': lambda c: c | {b'data': c[b'data'][:, :3000]},
    'another type': lambda c: c | {b'data': c[b'data'].astype(np.float32)},
    'labels too large': lambda c: c | {b'labels': [10] * COUNT},
    'labels negative': lambda c: c | {b'labels': [-1] * COUNT},
    'nested labels': lambda c: c | {b'labels': [[k] for k in c[b'labels']]},
    'fewer labels': lambda c: c | {b'labels': c[b'labels'][1:]},
    'fewer images': lambda c: batch(COUNT - 1),
    'code': lambda c: c | {b'x': Evil()},
    'code instead': lambda c: Evil(),
}


@pytest.mark.parametrize('kind', BAD_BATCHES)
def test_bad_batches_are_refused(kind, tmp_path, fails):
    write_cifar10(tmp_path / 'data', lambda name, content: BAD_BATCHES[kind](content)
                  if name == 'data_batch_3' else content)
    status, said = fails(cifar.main, '--dataroot', 'data', '--epochs', 1)
    assert status == 2 and len(said.splitlines()) == 1 and 'cifar-10-batches-py' in said
    assert ('code' in said) == kind.startswith('code')
    assert not (tmp_path / 'hacked').exists() and not (tmp_path / 'logs').exists()


def test_truncated_and_missing_batches(tmp_path):
    folder = write_cifar10(tmp_path)
    content = (folder / 'data_batch_2').read_bytes()
    (folder / 'data_batch_2').write_bytes(content[:500])
    with pytest.raises(InputError, match='data_batch_2'):
        cifar_sets.load_arrays('CIFAR10', tmp_path)
    (folder / 'data_batch_2').unlink()
    with pytest.raises(InputError, match='data_batch_2'):
        cifar_sets.load_arrays('CIFAR10', tmp_path)


def test_batches_as_numpy_1_and_2_and_python_2_write_them(tmp_path):
    for protocol in (0, 2, 4):
        path = tmp_path / f'batch{protocol}'
        content = pickle.dumps(batch(), protocol=protocol)
        path.write_bytes(content.replace(b'numpy._core', b'numpy.core') if protocol < 4
                         else content)
        got = cifar_sets.unpickle(path)
        np.testing.assert_array_equal(got[b'data'], batch()[b'data'])


@pytest.fixture
def server(tmp_path, monkeypatch, http_server):
    """CIFAR-10's archive on a local HTTP server, in place of the real one."""
    folder = tmp_path / 'served'
    write_cifar10(folder)
    archive = folder / 'cifar-10-python.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(folder / 'cifar-10-batches-py', 'cifar-10-batches-py')

    url = http_server(folder)
    spec = cifar_sets.CIFAR['CIFAR10'] | dict(
        url=f'{url}/cifar-10-python.tar.gz',
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(cifar_sets.CIFAR, 'CIFAR10', spec)
    return archive


def test_download(server, tmp_path, capsys):
    root = tmp_path / 'folder'
    with pytest.raises(InputError, match='there is no folder .*/folder: --dataroot is the one'):
        cifar_sets.load_arrays('CIFAR10', root)
    root.mkdir()
    killed, at_work = (root / f'{server.name}.{k}.partial' for k in 'ab')   # torch's, of others
    killed.touch()
    at_work.touch()
    os.utime(killed, (0, 0))
    (x, _), _, _ = cifar_sets.load_arrays('CIFAR10', root)
    assert len(x) == 5 * COUNT and 'downloading' in capsys.readouterr().out
    assert at_work.exists() and not killed.exists()
    server.unlink()
    cifar_sets.load_arrays('CIFAR10', root)      # from the folder
    for file in (root / 'cifar-10-batches-py').iterdir():
        file.unlink()
    (root / 'cifar-10-batches-py').rmdir()
    cifar_sets.load_arrays('CIFAR10', root)      # from the archive beside it


def test_corrupt_download(server, tmp_path, fails):
    (tmp_path / 'data').mkdir()
    content = bytearray(server.read_bytes())
    content[len(content) // 2] ^= 255
    server.write_bytes(content)
    status, said = fails(cifar.main, '--dataroot', 'data', '--epochs', 1)
    assert status == 2 and 'hash' in said and 'by hand' in said
    assert not list((tmp_path / 'data').iterdir())


def test_corrupt_archive_from_elsewhere(server, tmp_path, fails):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / server.name).write_bytes(server.read_bytes()[:-100])
    status, said = fails(cifar.main, '--dataroot', 'data', '--epochs', 1)
    assert status == 2 and 'checksum' in said and server.name in said
    assert not (tmp_path / 'data/cifar-10-batches-py').exists()


def test_download_that_fails(server, fails):
    server.unlink()
    status, said = fails(cifar.main, '--dataroot', '.', '--epochs', 1)
    assert status == 2 and '404' in said and len(said.splitlines()) == 1
    status, said = fails(lambda argv: official.download_set('CIFAR10', 'new'))
    assert status == 2 and '404' in said and not pathlib.Path('new').exists()


# ---- shapes -----------------------------------------------------------------------------------

def test_shapes_are_reproducible_and_balanced():
    images, labels, masks = shapes.shapes(40)
    again = shapes.shapes(20)
    np.testing.assert_array_equal(images[:20], again[0])
    assert np.bincount(labels).tolist() == [4] * 10
    assert images.shape == (40, 16, 16, 3) and masks.shape == (40, 16, 16)
    other = shapes.shapes(20, seed=1)[0]
    assert not any((a == b).all() for a in images for b in other)


@pytest.mark.parametrize('size', [16, 32, 64, 224])
def test_shapes_of_any_size(size):
    images, _, masks = shapes.shapes(10, size=size)
    assert images.shape == (10, size, size, 3) and masks.dtype == bool
    share = masks.mean((1, 2))
    assert (share > .02).all() and (share < .6).all()


def test_masks_lie_on_the_shapes():
    """The shape is brighter or darker than what surrounds it."""
    images, _, masks = shapes.shapes(100, size=64)
    grey = images.mean(3)
    contrast = [abs(g[m].mean() - g[~m].mean()) for g, m in zip(grey, masks, strict=True)]
    assert np.median(contrast) > 40


@pytest.mark.slow
def test_capacity_matters(tmp_path, monkeypatch):
    """The plain student's error exceeds its teacher's by more than two standard errors."""
    monkeypatch.setattr(shapes, 'SHAPES_COUNTS', {'train': 5000, 'test': 1000})
    errors = {1: [], 2: []}
    for seed in range(3):
        for width, list_ in errors.items():
            cifar.main(['--dataset', 'shapes', '--width', str(width), '--batch_size', '64',
                        '--epochs', '15', '--epoch_step', '[0.6,0.8]', '--seed', str(seed),
                        '--save', f'logs/{width}_{seed}'])
            log = runs.read_log(f'logs/{width}_{seed}/log.txt')
            list_.append(100 - log[-1]['test_acc'])
    difference = statistics.mean(errors[1]) - statistics.mean(errors[2])
    standard_error = (sum(statistics.variance(e) for e in errors.values()) / 3) ** .5
    assert difference > 2 * standard_error, errors
