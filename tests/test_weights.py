"""Parameter files: what is read, and what is refused."""
import argparse
import collections
import datetime
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import h5py
import hickle
import numpy as np
import pytest
import torch
from helpers import ROOT, call, write_net

import cifar
import finetune
import imagenet
import nets
import visualize
from engine import runs
from system import downloads
from utils import InputError
from weights import folding, store


class Evil:
    def __init__(self, *call):
        self.call = call or (os.system, ('touch hacked',))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('name', ['a.pth', 'a.hkl', 'new/folder/a.pth'])
def test_round_trip(name):
    _, params = cifar.resnet(10, 1, 10)
    store.write_params(params, name)
    got = store.read_params(name)
    assert list(sorted(got)) == list(sorted(params))
    assert all(torch.equal(got[k], params[k].detach()) for k in params)


def logits_of(path):
    f, _, params, _ = nets.load_net(path)
    return f(torch.linspace(-1, 1, 3 * 40 * 40).view(1, 3, 40, 40), params, False)[0]


def prefixed(params, prefix):
    return {prefix + k: v for k, v in params.items()}


@pytest.mark.parametrize('arch', ['resnet18', 'mobilenet_v2', 'wrn-10-1'])
def test_wrappers_and_prefixes(arch, capsys):
    """As many programs write checkpoints: the net computes what that of the plain file does."""
    params = store.read_params(write_net('plain.pth', arch))
    expected = logits_of('plain.pth')
    for key, prefix in (
            ('params', ''), ('state_dict', 'module.'), ('model_state_dict', 'module._orig_mod.'),
            ('model', '_orig_mod.module.model.'), ('net', 'net.'), ('network', 'backbone.'),
            ('', 'encoder.'), ('state_dict', 'student.')):
        found = prefixed(params, prefix)
        torch.save({key: found, 'epoch': 3} if key else found, 'a.pth')
        assert torch.equal(logits_of('a.pth'), expected), (key, prefix)
    assert not capsys.readouterr().out


def test_which_net_is_read_is_said(capsys):
    """Of several, the one that is trained; a head beside the rest belongs to it."""
    params = store.read_params(write_net('plain.pth', 'resnet18'))
    other = {k: v + 1 for k, v in params.items()}
    body = {k: v for k, v in params.items() if not k.startswith('fc.')}
    head = {k: v for k, v in params.items() if k.startswith('fc.')}
    for holder, said in (
            ({'model_ema': other, 'state_dict': params}, 'state_dict is read, not model_ema'),
            ({'ema': {'module': params}, 'params': {'lr': .1}}, 'ema is read'),
            ({**prefixed(other, 'module.encoder_k.'), **prefixed(params, 'module.encoder_q.'),
              'module.queue': torch.ones(2, 3), 'module.queue_ptr': torch.tensor([3])},
             r'encoder_q\.\* is read, not the 109 entries'),
            ({**prefixed(other, 'ema.'), **params}, 'not the 107 entries'),
            ({**prefixed(body, 'backbone.'), **prefixed(head, 'head.'), 'loss.a': torch.ones(1)},
             'such as loss.a'),
            ({**body, **{k.replace('fc.', 'fc.1.'): v for k, v in head.items()}}, '^$')):
        torch.save(holder, 'a.pth')
        assert torch.equal(logits_of('a.pth'), logits_of('plain.pth'))
        assert re.search(said, capsys.readouterr().out), said
    torch.save({**prefixed(body, 'encoder_q.'), 'encoder_q.fc.0.weight': torch.ones(4, 64),
                'encoder_q.fc.2.weight': torch.ones(4, 4)}, 'b.pth')
    assert set(store.read_params('b.pth')) == set(body)
    assert 'several layers' in capsys.readouterr().out


def test_what_lies_beside_the_weights_is_skipped():
    """Nothing of it is made: the bytes would not fit into any memory."""
    params = store.read_params(write_net('plain.pth'))
    beside = dict(
        best_acc=np.float64(3), history=np.arange(3), flags=np.array([True]), names=np.array(['a']),
        when=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
        where=pathlib.Path('x'), lists=collections.defaultdict(list, a=[1]), best=torch.tensor(3.),
        args=argparse.Namespace(lr=.1, where=pathlib.PurePosixPath('y')), made=torch.__version__,
        order=collections.OrderedDict(a=1), kind=np.float32, bytes=Evil(bytes, (2 ** 60,)))
    for as_zip in (True, False):
        torch.save({'state_dict': params, **beside}, 'a.pth', _use_new_zipfile_serialization=as_zip)
        assert torch.equal(logits_of('a.pth'), logits_of('plain.pth'))


@pytest.mark.parametrize('arch', ['resnet18', 'mobilenet_v2'])
def test_a_net_without_its_head(arch, fails, shapes_folder):
    """It starts a fine-tuning, but is not tested."""
    params = store.read_params(write_net('whole.pth', arch))
    body = {k: v for k, v in params.items() if not k.startswith(('fc.', 'classifier.'))}
    store.write_params(body, 'body.pth')
    ours, whole = (call(f'logs/{name}', source=f'{name}.pth')[-1] for name in ('body', 'whole'))
    assert ours['train_loss'] == whole['train_loss']
    status, said = fails(imagenet.main, '--imagenetpath', shapes_folder, '--evaluate', 'body.pth')
    assert status == 2 and 'body.pth is a net without its head' in said
    status, said = fails(finetune.main, '--dataset', 'shapes', '--source', 'body.pth',
                         '--keep_head', '--save', 'logs/b')
    assert status == 2 and 'without its head' in said


def test_alexnet_without_its_head():
    channels = (3, 4, 4, 4, 4, 4)
    params = {f'features.{k}.{part}': torch.rand(no, ni, n, n) if part == 'weight' else
              torch.rand(no) for k, ni, no, n in zip((0, 3, 6, 8, 10), channels, channels[1:],
                                                     (11, 5, 3, 3, 3), strict=False)
              for part in ('weight', 'bias')}
    for k, ni, no in ((1, 144, 16), (4, 16, 16)):
        params |= {f'classifier.{k}.weight': torch.rand(no, ni), f'classifier.{k}.bias':
                   torch.rand(no)}
    store.write_params(params, 'a.pth')
    _, classes, params, _ = nets.load_net('a.pth', any_head=True)
    assert classes == 1 and params['classifier.6.weight'].shape == (1, 16)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.double])
def test_dtypes(dtype, capsys):
    """Folded nets of other dtypes are drawn, and fine-tuned with normalisation restored."""
    params = folding.fold(store.read_params(write_net()))
    torch.save({k: v.to(dtype) for k, v in params.items()}, 'a.pth')
    torch.save({k: v.half() for k, v in params.items()}, 'half.pth')
    assert {v.dtype for v in store.read_params('half.pth').values()} == {torch.float}
    visualize.main(['--model', 'a.pth', '--size', '40'])
    visualize.main(['--model', 'a.pth', '--size', '40', '--map', 'gradient'])
    assert call('logs/a', '--method', 'l2_sp', source='a.pth')[-1]['epoch'] == 2
    assert 'is restored in' in capsys.readouterr().out


@pytest.mark.parametrize('said, value', [
    ('quantised', torch.quantize_per_tensor(torch.ones(2), .1, 0, torch.qint8)),
    ('sparse', torch.ones(2, 2).to_sparse()), ('complex', torch.ones(2, dtype=torch.cfloat)),
    ('meta', torch.ones(2, device='meta')), ('int64', torch.ones(2, dtype=torch.long)),
    ('larger than', torch.ones(1).expand(2 ** 50)), ('type int', 3)])
def test_entries_with_which_nothing_can_be_computed(said, value):
    torch.save({**store.read_params(write_net()), 'layer1.0.bn1.bias': value}, 'a.pth')
    with pytest.raises(InputError, match=f'a.pth.*layer1.0.bn1.bias is .*{said}'):
        store.read_params('a.pth')


def test_nan_is_said(capsys):
    store.write_params({'a': torch.tensor([1., float('nan')]), 'b': torch.ones(2)}, 'a.pth')
    store.read_params('a.pth')
    assert 'a.pth: 1 of its entries hold NaN' in capsys.readouterr().out


def test_formats_are_told_by_content():
    params = store.read_params(write_net('a.pth'))
    store.write_params(params, 'a.hkl')
    pathlib.Path('a.hkl').rename('hickle.pth')
    torch.save(params, 'torch.hkl')
    pytest.importorskip('safetensors.torch').save_file(params, 'safe.bin')
    for name in ('hickle.pth', 'torch.hkl', 'safe.bin'):
        found = store.read_params(name)
        assert all(torch.equal(found[k], v) for k, v in params.items())


def test_other_files_are_named(fails):
    torch.jit.script(torch.nn.Linear(2, 2)).save('script.pt')
    torch.save(torch.nn.Linear(2, 2), 'object.pth')
    np.savez('arrays.npz', a=np.ones(2))
    os.mkfifo('fifo.pth')
    os.mkdir('folder.pth')
    for name, content in (('onnx.pth', b'\x08\n\x12\x07pytorch\x1a'), ('empty.pth', b''),
                          ('lfs.pth', b'version https://git-lfs.github.com/spec/v1'),
                          ('page.pth', b'\n<!DOCTYPE html>'), ('deep.hkl', b'[' * 10 ** 5)):
        pathlib.Path(name).write_bytes(content)
    for name, said in (('script.pt', 'TorchScript'), ('onnx.pth', 'ONNX'), ('lfs.pth', 'Git LFS'),
                       ('object.pth', 'torch.nn.modules.linear.Linear'), ('page.pth', 'web page'),
                       ('arrays.npz', 'zip archive, but not of torch'), ('fifo.pth', 'FIFO'),
                       ('folder.pth', 'folder'), ('/dev/zero', 'device'), ('empty.pth', 'damaged'),
                       ('deep.hkl', 'HDF5')):
        with pytest.raises(InputError, match=f'{name}.*{said}'):
            store.read_params(name)
        status, printed = fails(cifar.main, '--dataset', 'shapes', '--teacher_id', name)
        assert status == 2 and said in printed and len(printed.splitlines()) == 1


def test_no_other_file_is_read():
    """Datasets of HDF5 that are elsewhere, and links."""
    pathlib.Path('secret').write_bytes(b'12345678')
    store.write_params({'a': torch.ones(2)}, 'other.hkl')
    layout = h5py.VirtualLayout((2,), 'f4')
    layout[:] = h5py.VirtualSource('other.hkl', 'data/"a"', (2,))
    with h5py.File('external.hkl', 'w') as f:
        f.create_dataset('data/a', (2,), 'f4', external=[('secret', 0, 8)])
    with h5py.File('virtual.hkl', 'w') as f:
        f.create_virtual_dataset('a', layout)
    for name, link in (('soft.hkl', h5py.SoftLink('/b')),
                       ('link.hkl', h5py.ExternalLink('other.hkl', '/data'))):
        with h5py.File(name, 'w') as f:
            f['data/b'] = np.ones(2)
            f['data/a'] = link
    for name, said in (('external.hkl', 'other files'), ('virtual.hkl', 'other files'),
                       ('soft.hkl', 'link'), ('link.hkl', 'link')):
        with pytest.raises(InputError, match=f'{name}.*{said}'):
            store.read_params(name)


@pytest.mark.parametrize('change', [
    {'epoch': -5}, {'epoch': '1'}, {'epoch': None}, {'epoch': True}, {'params': 3}, {'line': 3},
    {'momenta': [1]}, {'momenta': {'conv0': torch.ones(2)}}, {'random': None},
    {'random': {'cpu': torch.ones(3)}}])
def test_fields_of_a_checkpoint_are_checked(change):
    params = {'conv0': torch.ones(3)}
    state = dict(params=params, momenta=params, epoch=1, random=dict(cpu=torch.get_rng_state()))
    torch.save(state, 'a.pt7')
    assert store.checkpoint('a.pt7')['epoch'] == 1
    torch.save({**state, **change}, 'b.pt7')
    with pytest.raises(InputError, match='b.pt7'):
        store.checkpoint('b.pt7')


@pytest.mark.parametrize('line', ['{"epoch": -5, "epochs": 2, "test_acc": 1}', '[' * 10 ** 5, '3',
                                  '{"epoch": 1, "epochs": "2", "test_acc": 1}', '{"epoch": 1}',
                                  '{"epoch": 1, "epochs": 2, "test_acc": NaN}'])
def test_fields_of_a_log_are_checked(line):
    runs.write_log(pathlib.Path('log.txt'), [{}, dict(epoch=1, epochs=2, test_acc=1.)])
    assert len(runs.read_log('log.txt')) == 2
    pathlib.Path('log.txt').write_text(f'json_stats: {{}}\njson_stats: {line}\n')
    with pytest.raises(InputError, match='log.txt is damaged'):
        runs.read_log('log.txt')


def test_options_of_a_checkpoint_are_checked():
    torch.save({'params': {}, 'options': {'input_size': 'big'}}, 'a.pt7')
    with pytest.raises(InputError, match='a.pt7.*input_size'):
        store.options('a.pt7')


def test_onnx_by_the_lines_of_the_documentation():
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    write_net('net.pth')
    blocks = re.findall(r'(?s)```python\n(.*?)```', (ROOT / 'docs/weights.md').read_text())
    exec(blocks[-1], {})
    assert onnx.load('net.onnx').graph.node
    with pytest.raises(InputError, match='net.onnx is a file of ONNX'):
        store.read_params('net.onnx')


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
        store.read_params('a.pth')


@pytest.mark.parametrize('as_zip', [True, False])
def test_code_is_refused(as_zip, tmp_path):
    """Wherever it lies, and the message names it."""
    touch = "open('hacked', 'w')"
    for evil, name in ((Evil(), 'posix.system'), (Evil(eval, (touch,)), 'eval'),
                       (Evil(exec, (touch,)), 'exec'), (Evil(getattr, ('', 'upper')), 'getattr'),
                       (Evil(subprocess.Popen, (['touch', 'hacked'],)), 'Popen'),
                       (Evil(np.load, ('a', None, True)), 'numpy.load'),
                       (collections.defaultdict(os.getcwd), 'posix.getcwd')):
        for holder in ({'params': evil}, {'params': {'a': torch.ones(2)}, 'beside': [evil]}):
            torch.save(holder, 'a.pth', _use_new_zipfile_serialization=as_zip)
            with pytest.raises(InputError, match=f'carries code.*{name}'):
                store.read_params('a.pth')
    assert not (tmp_path / 'hacked').exists()


def test_pickle_in_hickle_is_refused(tmp_path):
    with pytest.warns(match='serialized'):
        hickle.dump({'a': Evil()}, 'a.hkl')
    with pytest.raises(InputError, match='pickle'):
        store.read_params('a.hkl')
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


@pytest.mark.parametrize('layout', [hickle_2, hickle_3, hickle_4, store.write_params])
def test_layouts_of_hickle(layout):
    params = {'conv0': torch.randn(4, 3, 3, 3), 'group0.block0.conv0.weight': torch.randn(2, 2),
              'fc.bias': torch.randn(5).double()}
    layout('a.hkl', params) if layout is not store.write_params else layout(params, 'a.hkl')
    got = store.read_params('a.hkl')
    assert set(got) == set(params)
    # of float and double, all become double
    assert all(torch.equal(got[k], v) and got[k].dtype == torch.double for k, v in params.items())


@pytest.mark.parametrize('value', [
    np.frombuffer(b'\x80\x04a pickle', np.uint8), np.array([b'(dp0\na pickle']),
    np.void(b'\x80\x04a pickle'), b'a pickle'])
def test_pickles_among_the_arrays_are_refused(value):
    hickle_2('a.hkl', {'a': torch.ones(2)})
    with h5py.File('a.hkl', 'a') as f:
        f['data_0'].create_group('b').create_dataset('data_0', data=value)
    with pytest.raises(InputError, match='pickle'):
        store.read_params('a.hkl')


def test_safetensors():
    torch.manual_seed(0)
    params = {'a.weight': torch.randn(2, 3), 'b': torch.ones(2)}
    pytest.importorskip('safetensors.torch').save_file(params, 'a.safetensors')
    got = store.read_params('a.safetensors')
    assert set(got) == set(params) and all(torch.equal(got[k], v) for k, v in params.items())
    with open('b.safetensors', 'wb') as f:
        f.write(b'nothing of the kind')
    for name in ('b.safetensors', 'missing.safetensors'):
        with pytest.raises(InputError, match=name):
            store.read_params(name)


def test_safetensors_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    pathlib.Path('a.safetensors').touch()
    with pytest.raises(InputError, match='pip install safetensors'):
        store.read_params('a.safetensors')


def test_arrays_of_numpy_in_a_file_of_torch():
    """As exports of 2017 may hold them; what else numpy pickles is refused."""
    torch.save({'a': np.arange(3.), 'b': torch.ones(2)}, 'a.pth')
    got = store.read_params('a.pth')
    assert torch.equal(got['a'], torch.arange(3.).double()) and torch.equal(got['b'], torch.ones(2))
    torch.save({'a': np.array([Evil()])}, 'b.pth')
    with pytest.raises(InputError, match='b.pth'):
        store.read_params('b.pth')


def test_counters_of_torchvisions_bn_are_left_out():
    torch.save({'bn1.weight': torch.ones(2), 'bn1.num_batches_tracked': torch.tensor(5)}, 'a.pth')
    assert set(store.read_params('a.pth')) == {'bn1.weight'}


def test_known_weights_are_downloaded_once_and_checked(http_server, monkeypatch, tmp_path):
    (tmp_path / 'served').mkdir()
    torch.save({'a': torch.ones(2)}, 'served/small.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    url, sha256 = http_server('served') + '/small.pth', downloads.sha256_of('served/small.pth')
    monkeypatch.setitem(store.KNOWN, 'small', (url, sha256[:8], (1., 2.)))
    path = store.locate('small')
    assert torch.equal(store.read_params(path)['a'], torch.ones(2))
    assert tmp_path / 'home' in path.parents
    os.remove('served/small.pth')
    assert store.locate('small') == path      # from the disk
    path.write_bytes(b'something else')
    with pytest.raises(InputError, match='checksum'):
        store.locate('small')
    path.unlink()
    with pytest.raises(InputError, match='404'):
        store.locate('small')


def test_known_names():
    """The beginning of the sha256 is part of most names; files win over names."""
    for name, (url, sha256, errors) in store.KNOWN.items():
        stem, end = name.removeprefix('cifar10_'), f'-{sha256}' if sha256 else name
        assert f'/{stem}' in url and url.endswith((f'{end}.pth', f'{end}.th'))
        assert list(errors) == sorted(errors, reverse=True)
    torch.save({'a': torch.ones(2)}, 'resnet34')
    assert str(store.locate('resnet34')) == 'resnet34'


def test_damaged_hickle():
    """Wherever the damage is, it is either harmless or said in one line."""
    store.write_params(cifar.resnet(10, 1, 10)[1], 'a.hkl')
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
            store.read_params('b.hkl')
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
            store.read_params(name)
    for name, said in (('x.bin', 'x.bin'), ('x.onnx', 'docs/weights.md')):
        with pytest.raises(InputError, match=said):
            store.write_params({}, name)
