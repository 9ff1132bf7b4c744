"""Reading and writing parameter files, without ever running what a file carries."""
import argparse
import os
import pathlib
import re
import zipfile

import h5py
import hickle
import numpy as np
import torch

from data.downloads import download
from utils import InputError, RunError, without_prefix

# Files that can be named instead of given: where they are, the beginning of their sha256 ('' where
# nobody published one), and what they should give on ImageNet, top-1 and top-5 error.
TORCH_HOST = 'https://download.pytorch.org/models'
ZOO_HOST = 'https://s3.amazonaws.com/modelzoo-networks'
KNOWN = {
    'resnet18': (f'{TORCH_HOST}/resnet18-f37072fd.pth', 'f37072fd', (30.24, 10.92)),
    'resnet34': (f'{TORCH_HOST}/resnet34-b627a593.pth', 'b627a593', (26.69, 8.58)),
    'resnet50': (f'{TORCH_HOST}/resnet50-0676ba61.pth', '0676ba61', (23.87, 7.14)),
    'resnet101': (f'{TORCH_HOST}/resnet101-63fe2227.pth', '63fe2227', (22.63, 6.45)),
    'mobilenet_v2': (f'{TORCH_HOST}/mobilenet_v2-b0353104.pth', 'b0353104', (28.12, 9.71)),
    'alexnet': (f'{TORCH_HOST}/alexnet-owt-7be5be79.pth', '7be5be79', (43.48, 20.93)),
    'resnet-34-export': (f'{ZOO_HOST}/resnet-34-export.pth', '', (26.72, 8.74)),
    'resnet-18-at-export': (f'{ZOO_HOST}/resnet-18-at-export.pth', '', (29.44, 10.12)),
}
# what a checkpoint holds that was trained beside the net and is no part of it
HELPERS = ('regressor.', 'attention.')
# the names of which numpy's arrays are made in a pickle: exports of 2017 may hold them
RECONSTRUCT = np.empty(0).__reduce__()[0]
ARRAYS = [(RECONSTRUCT, 'numpy.core.multiarray._reconstruct'),
          (RECONSTRUCT, 'numpy._core.multiarray._reconstruct'), np.ndarray, np.dtype,
          type(np.dtype('f4')), type(np.dtype('f8')),
          argparse.Namespace]     # of torchvision's training checkpoints, beside the net


def load(path):
    """What a torch file (.pt7, .pth, .pt; zip or the older form) holds: tensors on the CPU, or
    arrays, in plain containers. A damaged file, or one that carries code, is an InputError."""
    path = pathlib.Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as z:
                bad = z.testzip()
            if bad is not None:
                raise InputError(f'{path} is damaged: its part {bad} fails its checksum')
        elif path.read_bytes()[:2] == b'PK':
            raise InputError(f'{path} is truncated: the end of the file is missing')
        with torch.serialization.safe_globals(ARRAYS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except OSError as e:
        raise InputError(f'cannot read {path}: {e.strerror or e}') from None
    except InputError:
        raise
    except Exception as e:      # a damaged pickle raises nearly anything
        if 'Unsupported global' in str(e) or 'Trying to load unsupported GLOBAL' in str(e):
            raise InputError(f'{path} carries code or is cut off: it should hold tensors and '
                             f'plain values only, and is not loaded') from None
        raise InputError(f'{path} is damaged or no file of torch ({type(e).__name__})') from None


def read_hickle(path):
    """The arrays of a .hkl file as a flat dict, read through h5py: nothing is unpickled."""
    params = {}

    def visit(name, node):
        if not isinstance(node, h5py.Dataset) or name.startswith('hickle_types_table/'):
            return
        if node.dtype.kind in 'SVO' or node.dtype == np.uint8:
            raise InputError(f'{path} holds a pickle ({name}) instead of arrays; it is not loaded')
        if node.dtype.kind == 'f':
            keys = [k.strip('\'"') for k in name.split('/') if not k.startswith('data')]
            params['.'.join(keys)] = torch.from_numpy(np.asarray(node[()]))

    try:
        with h5py.File(path, 'r') as f:
            f.visititems(visit)
    except InputError:
        raise
    except Exception as e:      # a damaged file raises nearly anything
        raise InputError(f'cannot read {path} as HDF5: {e}') from None
    return params


def parameters(holder, path):
    """The parameters in a loaded file: our and the published checkpoints' `params` (of the
    student, where there is a teacher beside it), `model` or `state_dict` of others, or the dict
    itself. `path` is for the message when there are none."""
    for key in ('params', 'model', 'state_dict'):
        if isinstance(holder, dict) and isinstance(holder.get(key), dict):
            holder = holder[key]
    if isinstance(holder, dict):
        holder = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) and v.dtype.kind == 'f' else v
                  for k, v in holder.items()}
    if not isinstance(holder, dict) or not holder or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in holder.items()):
        raise InputError(f'{path} holds no dict of tensors')
    holder = {k.removeprefix('module.'): v.detach() for k, v in holder.items()}
    return without_prefix(holder, 'student.') or holder


def read_safetensors(path):
    """The tensors of a .safetensors file, where that package is installed."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f'{path}: to read it, install safetensors (pip install safetensors)'
                         ) from None
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise InputError(f'cannot read {path}: {e}') from None


def read(path):
    """The parameters of the net in a .hkl, .safetensors, .pt7, .pth or .pt file: a flat dict of
    tensors on the CPU. Statistics of BN that were fixed in training are running ones again."""
    readers = {'.hkl': read_hickle, '.safetensors': read_safetensors}
    holder = readers.get(pathlib.Path(path).suffix, load)(path)
    return from_caffe({re.sub(r'\.fixed_(mean|var)$', r'.running_\1', k): v
                       for k, v in parameters(holder, path).items()
                       if not k.startswith(HELPERS) and not k.endswith('.num_batches_tracked')})


def options(path):
    """The options of the run whose checkpoint a file is, else {}."""
    holder = load(path) if pathlib.Path(path).suffix not in ('.hkl', '.safetensors') else {}
    return holder.get('options') or {} if isinstance(holder, dict) else {}


def from_caffe(params):
    """A converted Caffe AlexNet, whatever its layers are called (conv1 to fc8, or others in that
    order), with the names of torchvision's; any other net as it is."""
    def order(key):
        """Convolutions first; by the numbers in their names."""
        return -params[key].ndim, [int(n) for n in re.findall(r'\d+', key)]

    layers = [k.removesuffix('.weight') for k in sorted(
        (k for k, v in params.items() if v.ndim in (2, 4)), key=order)]
    shapes = [tuple(params.get(f'{k}.weight', torch.empty(0)).shape[1:]) for k in layers]
    if shapes[:2] != [(3, 11, 11), (48, 5, 5)] or len(shapes) != 8:
        return params
    names = [f'features.{k}' for k in (0, 3, 6, 8, 10)] + [f'classifier.{k}' for k in (1, 4, 6)]
    return {f'{name}.{part}': params[f'{layer}.{part}'].flatten() if part == 'bias' else
            params[f'{layer}.{part}'] for layer, name in zip(layers, names, strict=True)
            for part in ('weight', 'bias')}


def locate(name):
    """The file of parameters that a name stands for: a run under logs/, a run's folder, a file, or
    a key of KNOWN, which is downloaded if need be into torch's folder of weights."""
    logs = pathlib.Path('logs')
    for path in (logs / name / 'model.pt7', pathlib.Path(name) / 'model.pt7', pathlib.Path(name)):
        if path.is_file():
            return path
    if name in KNOWN:
        url, sha256, _ = KNOWN[name]
        return download(url, pathlib.Path(torch.hub.get_dir(), 'checkpoints'), sha256)
    known = sorted(str(p.parent.relative_to(logs)) for p in logs.glob('**/model.pt7'))
    more = ', ...' if len(known) > 20 else ''
    raise InputError(f'no net {name}: it is no run under logs/ and no path. Runs under logs/: '
                     f'{", ".join(known[:20]) or "none"}{more}. Nets that can be downloaded: '
                     f'{", ".join(KNOWN)}')


def check_format(path):
    """Refuse a name that `write` does not know, before the work of hours depends on it."""
    if not str(path).endswith(('.pth', '.hkl')):
        raise InputError(f'{path}: write .pth (torch) or .hkl (hickle)')


def write(params, path):
    """Write a flat dict of tensors as .pth or .hkl."""
    check_format(path)
    params = {k: v.detach().cpu().contiguous() for k, v in params.items()}
    temporary = f'{path}.tmp'
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        if str(path).endswith('.hkl'):
            hickle.dump({k: v.numpy() for k, v in params.items()}, temporary, mode='w')
        else:
            torch.save(params, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:    # torch's writer turns a full disk into the latter
        raise RunError(f'cannot write {path}: {str(e).splitlines()[0]}') from None


def check_same(params, expected, path):
    """Refuse parameters whose keys or shapes are not those of `expected`; name the first that
    differ."""
    def shape(d, k):
        return tuple(d[k].shape) if k in d else 'missing'

    differing = [k for k in {**expected, **params} if shape(params, k) != shape(expected, k)]
    if differing:
        first = '; '.join(f'{k}: {shape(params, k)}, expected {shape(expected, k)}'
                          for k in differing[:3])
        raise InputError(f'{path} is of another architecture; {len(differing)} entries differ, '
                         f'the first are {first}')
