"""Parameter files: what is read, and what is refused."""
import argparse
import os
import sys
import zipfile

import h5py
import hickle
import numpy as np
import pytest
import torch

import cifar
from data import downloads
from utils import InputError
from weights import store


class Evil:
    def __reduce__(self):
        return os.system, ('touch hacked',)


@pytest.mark.parametrize('name', ['a.pth', 'a.hkl', 'new/folder/a.pth'])
def test_round_trip(name):
    _, params = cifar.resnet(10, 1, 10)
    store.write(params, name)
    got = store.read(name)
    assert list(sorted(got)) == list(sorted(params))
    assert all(torch.equal(got[k], params[k].detach()) for k in params)


@pytest.mark.parametrize('wrap', [lambda p: p, lambda p: {'params': p, 'epoch': 3},
                                  lambda p: {'model': p}, lambda p: {'state_dict': p}])
def test_parameters_are_found(wrap):
    torch.save(wrap({'a': torch.ones(2)}), 'a.pth')
    assert list(store.read('a.pth')) == ['a']


def truncated(content):
    return content[:len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1:]


@pytest.mark.parametrize('as_zip', [True, False])
@pytest.mark.parametrize('damage', [truncated, lambda c: b'', lambda c: b'hello world'])
def test_damaged_files_are_refused(as_zip, damage, fails):
    torch.save({'params': cifar.resnet(10, 1, 10)[1], 'epoch': 1}, 'a.pt7',
               _use_new_zipfile_serialization=as_zip)
    with open('a.pt7', 'rb') as f:
        content = damage(f.read())
    with open('a.pt7', 'wb') as f:
        f.write(content)
    status, said = fails(cifar.main, '--dataset', 'shapes', '--teacher_id', 'a.pt7', '--beta', 1)
    assert status == 2 and 'a.pt7' in said and len(said.splitlines()) == 1


def test_flipped_bit_is_found():
    torch.save({'a': torch.ones(5000)}, 'a.pth')
    with open('a.pth', 'rb') as f:
        content = flipped(f.read())
    with open('a.pth', 'wb') as f:
        f.write(content)
    with pytest.raises(InputError, match='checksum'):
        store.read('a.pth')


@pytest.mark.parametrize('as_zip', [True, False])
def test_code_is_refused(as_zip, tmp_path):
    torch.save({'params': Evil()}, 'a.pth', _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError, match='carries code'):
        store.read('a.pth')
    assert not (tmp_path / 'hacked').exists()


def test_pickle_in_hickle_is_refused(tmp_path):
    with pytest.warns(match='serialized'):
        hickle.dump({'a': Evil()}, 'a.hkl')
    with pytest.raises(InputError, match='pickle'):
        store.read('a.hkl')
    assert not (tmp_path / 'hacked').exists()


def hickle_2(path, params):
    """A file as hickle 2 wrote it: a dict is a group, and so is each of its values."""
    with h5py.File(path, 'w') as f:
        f.attrs.update(CLASS=b'hickle', VERSION=b'2.1.0', type=[b'hickle'])
        group = f.create_group('data_0')
        group.attrs['type'] = [b'dict']
        for k, v in params.items():
            item = group.create_group(k)
            item.attrs['type'] = [b'dict_item']
            dataset = item.create_dataset('data_0', data=v.numpy())
            dataset.attrs['type'] = [b'ndarray']


def hickle_3(path, params):
    """As hickle 3: keys in quotes."""
    hickle_2(path, {repr(k): v for k, v in params.items()})


def hickle_4(path, params):
    """As hickle 4: a dataset for each value, under a pickled type that is not looked at."""
    with h5py.File(path, 'w') as f:
        group = f.create_group('data')
        group.attrs['type'] = np.void(b'\x80\x04a pickle')
        for k, v in params.items():
            dataset = group.create_dataset(f'"{k}"', data=v.numpy())
            dataset.attrs['type'] = np.void(b'\x80\x04a pickle')
        table = f.create_group('hickle_types_table')
        table.create_dataset('0', data=np.frombuffer(b'\x80\x04a pickle', np.uint8))


@pytest.mark.parametrize('layout', [hickle_2, hickle_3, hickle_4, store.write])
def test_layouts_of_hickle(layout):
    params = {'conv0': torch.randn(4, 3, 3, 3), 'group0.block0.conv0.weight': torch.randn(2, 2),
              'fc.bias': torch.randn(5).double()}
    layout('a.hkl', params) if layout is not store.write else layout(params, 'a.hkl')
    got = store.read('a.hkl')
    assert set(got) == set(params)
    assert all(torch.equal(got[k], v) and got[k].dtype == v.dtype for k, v in params.items())


@pytest.mark.parametrize('value', [
    np.frombuffer(b'\x80\x04a pickle', np.uint8), np.array([b'(dp0\na pickle']),
    np.void(b'\x80\x04a pickle'), b'a pickle'])
def test_pickles_among_the_arrays_are_refused(value):
    hickle_2('a.hkl', {'a': torch.ones(2)})
    with h5py.File('a.hkl', 'a') as f:
        f['data_0'].create_group('b').create_dataset('data_0', data=value)
    with pytest.raises(InputError, match='pickle'):
        store.read('a.hkl')


def test_safetensors():
    torch.manual_seed(0)
    params = {'a.weight': torch.randn(2, 3), 'b': torch.ones(2)}
    pytest.importorskip('safetensors.torch').save_file(params, 'a.safetensors')
    got = store.read('a.safetensors')
    assert set(got) == set(params) and all(torch.equal(got[k], v) for k, v in params.items())
    with open('b.safetensors', 'wb') as f:
        f.write(b'nothing of the kind')
    for name in ('b.safetensors', 'missing.safetensors'):
        with pytest.raises(InputError, match=name):
            store.read(name)


def test_safetensors_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(InputError, match='pip install safetensors'):
        store.read('a.safetensors')


def test_arrays_of_numpy_in_a_file_of_torch():
    """As exports of 2017 may hold them; what else numpy pickles is refused."""
    torch.save({'a': np.arange(3.), 'b': torch.ones(2)}, 'a.pth')
    got = store.read('a.pth')
    assert torch.equal(got['a'], torch.arange(3.).double()) and torch.equal(got['b'], torch.ones(2))
    torch.save({'a': np.array([Evil()])}, 'b.pth')
    with pytest.raises(InputError, match='b.pth'):
        store.read('b.pth')


def test_checkpoints_of_other_training_scripts():
    """The options of torchvision's, the prefix of DataParallel."""
    torch.save({'model': {'module.a': torch.ones(2)}, 'args': argparse.Namespace(lr=.1)}, 'a.pth')
    assert set(store.read('a.pth')) == {'a'}


def test_counters_of_torchvisions_bn_are_left_out():
    torch.save({'bn1.weight': torch.ones(2), 'bn1.num_batches_tracked': torch.tensor(5)}, 'a.pth')
    assert set(store.read('a.pth')) == {'bn1.weight'}


def test_known_weights_are_downloaded_once_and_checked(http_server, monkeypatch, tmp_path):
    (tmp_path / 'served').mkdir()
    torch.save({'a': torch.ones(2)}, 'served/small.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    url, sha256 = http_server('served') + '/small.pth', downloads.sha256_of('served/small.pth')
    monkeypatch.setitem(store.KNOWN, 'small', (url, sha256[:8], (1., 2.)))
    path = store.locate('small')
    assert torch.equal(store.read(path)['a'], torch.ones(2)) and tmp_path / 'home' in path.parents
    os.remove('served/small.pth')
    assert store.locate('small') == path      # from the disk
    path.write_bytes(b'something else')
    with pytest.raises(InputError, match='checksum'):
        store.locate('small')
    path.unlink()
    with pytest.raises(InputError, match='404'):
        store.locate('small')


def test_known_names():
    """The beginning of the sha256 is part of torchvision's names; files win over names."""
    for name, (url, sha256, errors) in store.KNOWN.items():
        assert f'/{name}' in url and url.endswith(f'-{sha256}.pth' if sha256 else f'{name}.pth')
        assert len(errors) == 2 and errors[0] > errors[1]
    torch.save({'a': torch.ones(2)}, 'resnet34')
    assert str(store.locate('resnet34')) == 'resnet34'


def test_damaged_hickle():
    """Wherever the damage is, it is either harmless or said in one line."""
    store.write(cifar.resnet(10, 1, 10)[1], 'a.hkl')
    with open('a.hkl', 'rb') as f:
        content = f.read()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(40):
        damaged = bytearray(content)
        for k in rng.integers(0, 20000, 16):
            damaged[k] ^= 255
        with open('b.hkl', 'wb') as f:
            f.write(damaged)
        try:
            store.read('b.hkl')
        except InputError:
            refused += 1
    assert refused > 10


def test_other_files():
    with zipfile.ZipFile('a.pth', 'w') as z:
        z.writestr('readme', 'nothing')
    with h5py.File('b.hkl', 'w') as f:
        f['numbers'] = np.arange(3)
    with open('c.hkl', 'w') as f:
        f.write('hello')
    torch.save({'params': {'a': 1}}, 'd.pth')
    torch.save([1, 2], 'e.pth')
    torch.save({0: torch.ones(1)}, 'f.pth')
    for name in ('a.pth', 'b.hkl', 'c.hkl', 'd.pth', 'e.pth', 'f.pth', 'missing.pth',
                 'missing.hkl'):
        with pytest.raises(InputError, match=name.replace('.', '[.]')):
            store.read(name)
    with pytest.raises(InputError, match='x.bin'):
        store.write({}, 'x.bin')
