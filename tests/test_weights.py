"""Parameter files: what is read, and what is refused."""
import os
import zipfile

import h5py
import hickle
import numpy as np
import pytest
import torch

import cifar
import weights
from utils import InputError


class Evil:
    def __reduce__(self):
        return os.system, ('touch hacked',)


@pytest.mark.parametrize('name', ['a.pth', 'a.hkl', 'new/folder/a.pth'])
def test_round_trip(name):
    _, params = cifar.resnet(10, 1, 10)
    weights.write(params, name)
    got = weights.read(name)
    assert list(sorted(got)) == list(sorted(params))
    assert all(torch.equal(got[k], params[k].detach()) for k in params)


@pytest.mark.parametrize('wrap', [lambda p: p, lambda p: {'params': p, 'epoch': 3},
                                  lambda p: {'model': p}, lambda p: {'state_dict': p}])
def test_parameters_are_found(wrap):
    torch.save(wrap({'a': torch.ones(2)}), 'a.pth')
    assert list(weights.read('a.pth')) == ['a']


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
        weights.read('a.pth')


@pytest.mark.parametrize('as_zip', [True, False])
def test_code_is_refused(as_zip, tmp_path):
    torch.save({'params': Evil()}, 'a.pth', _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError, match='carries code'):
        weights.read('a.pth')
    assert not (tmp_path / 'hacked').exists()


def test_pickle_in_hickle_is_refused(tmp_path):
    with pytest.warns(match='serialized'):
        hickle.dump({'a': Evil()}, 'a.hkl')
    with pytest.raises(InputError, match='pickle'):
        weights.read('a.hkl')
    assert not (tmp_path / 'hacked').exists()


def test_damaged_hickle():
    """Wherever the damage is, it is either harmless or said in one line."""
    weights.write(cifar.resnet(10, 1, 10)[1], 'a.hkl')
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
            weights.read('b.hkl')
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
            weights.read(name)
    with pytest.raises(InputError, match='x.bin'):
        weights.write({}, 'x.bin')
