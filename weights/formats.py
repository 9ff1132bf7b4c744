"""Reading files of weights of torch, HDF5 or safetensors, whatever they are called. Nothing in such
a file is ever run, and no file that it names is read."""
import pathlib
import re
import stat
import warnings
import zipfile
import zlib

import h5py
import numpy as np
import torch

from utils import InputError


class StandIn:
    """Stands in for an object saved with weights: keeps arguments and state, and calls nothing."""

    def __new__(cls, *args, **named):
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state):
        self.state = state


# the types, besides torch's own, that people save with their weights, and numpy's arrays
HARMLESS = [
    *(f'{core}.multiarray.{k}' for core in ('numpy.core', 'numpy._core')
      for k in ('scalar', '_reconstruct')),
    *(f'numpy.{k}' for k in ('ndarray', 'dtype', 'bool_', 'float16', 'float32', 'float64', 'int8',
                             'uint8', 'int32', 'int64')),
    *(f'datetime.{k}' for k in ('date', 'datetime', 'time', 'timedelta', 'timezone')),
    *(f'{m}.{k}' for m in ('pathlib', 'pathlib._local') for k in (
        'Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath')),
    *(f'builtins.{k}' for k in ('bool', 'bytes', 'dict', 'float', 'frozenset', 'int', 'list',
                                'range', 'slice', 'str', 'tuple')),
    'argparse.Namespace', 'types.SimpleNamespace', 'decimal.Decimal', 'uuid.UUID',
    'torch.torch_version.TorchVersion',
]
# a defaultdict is read as a dict, without the function that makes its missing values
ALLOWED = [(lambda *args: {}, 'collections.defaultdict'),
           *((type(name, (StandIn,), {}), name) for name in HARMLESS)]

# the first bytes of other files -> what to say of them
REFUSED = {
    rb'\x08[\x01-\x20][\x12\x1a:B]': 'is a file of ONNX, which is a program: give the weights that '
                                     'it was made of',
    rb'version https://git-lfs': 'is a pointer of Git LFS: fetch the file itself with git lfs pull',
    rb'(?i)\s*<(!doctype|html|\?xml)': 'is a web page: the download has failed',
    rb'\x93NUMPY': 'is an array of numpy: give a file that has names for all arrays of a net',
    rb'\x1f\x8b': 'is compressed by gzip: unpack it first',
}


def check_regular(path):
    """Raise an InputError for a path that is missing or not a regular file, such as a folder."""
    try:
        mode = pathlib.Path(path).stat().st_mode
    except (OSError, ValueError) as e:
        raise InputError(f'cannot read {path}: {getattr(e, "strerror", None) or e}') from None
    if not stat.S_ISREG(mode):
        kind = 'a folder' if stat.S_ISDIR(mode) else 'a FIFO, a socket or a device'
        raise InputError(f'{path} is {kind}: give a file')


def read_contents(path):
    """Read a file of weights: plain containers of tensors on the CPU, or of stand-ins for numpy's
    arrays (see `array`). InputError, if it is damaged, carries code, or is of another kind."""
    path = pathlib.Path(path)
    check_regular(path)
    try:
        with path.open('rb') as f:
            head = f.read(64)
        length = int.from_bytes(head[:8], 'little')
        if h5py.is_hdf5(path):
            return read_hdf5(path)
        if head[8:9] == b'{' and length < path.stat().st_size:
            return read_safetensors(path)
        for pattern, what in REFUSED.items():
            if re.match(pattern, head):
                raise InputError(f'{path} {what}')
        if head.startswith(b'PK'):
            check_zip(path)
            return read_torch(path)
        # what the content does not tell is a damaged file of the kind that its name says
        read = {'.hkl': read_hdf5, '.safetensors': read_safetensors}.get(path.suffix, read_torch)
        return read(path)
    except OSError as e:
        raise InputError(f'cannot read {path}: {e.strerror or e}') from None


def check_zip(path):
    """Raise an InputError for a zip archive that is damaged, or that torch.save does not write."""
    try:
        with zipfile.ZipFile(path) as z:
            names, bad = z.namelist(), z.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as e:
        raise InputError(f'{path} is truncated or damaged: {e}') from None
    if bad is not None:
        raise InputError(f'{path} is damaged: its part {bad} fails its checksum')
    if any(k.endswith('/constants.pkl') for k in names):
        raise InputError(f'{path} is a file of TorchScript, which is a program. Write its weights '
                         f'alone, torch.save(torch.jit.load(file).state_dict(), new_file), if you '
                         f'trust where it comes from')
    if not any(k.endswith('data.pkl') for k in names):
        raise InputError(f'{path} is a zip archive, but not of torch')


def read_torch(path):
    """Read a file of torch.save, old or new. InputError, if it is damaged or carries code."""
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter('ignore')     # of old pickles and storages
            return torch.load(path, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except Exception as e:      # a damaged pickle raises nearly anything
        if found := re.search(r'(?i)unsupported global:? (?:global )?(\S+)', str(e)):
            raise InputError(
                f'{path} carries code, or an object of a type that is not read, {found[1]} (or it '
                f'is cut off), and is not loaded: it should hold tensors and plain values only, as '
                f'net.state_dict() does') from None
        raise InputError(f'{path} is not a file of weights, or is damaged '
                         f'({type(e).__name__})') from None


def array(x):
    """Make a tensor of a stand-in for numpy's array; all else stays. ValueError without numbers."""
    if not isinstance(x, StandIn) or not type(x).__name__.endswith('._reconstruct'):
        return x
    try:
        _, shape, dtype, by_columns, data = x.state
        kind, order = dtype.args[0], dtype.state[1]
        if not re.fullmatch('[fiu][1248]', kind):
            raise ValueError(kind)
        data = data.encode('latin1') if isinstance(data, str) else data
        found = np.frombuffer(data, np.dtype(kind).newbyteorder(order))
        return torch.from_numpy(np.array(found.reshape(shape, order='F' if by_columns else 'C'),
                                         kind, order='C'))
    except (TypeError, AttributeError, IndexError, ValueError, RuntimeError) as e:
        raise ValueError(f'an array of numpy that holds no numbers ({e})') from None


def read_hdf5(path):
    """Read a .hkl file -> flat dict of tensors. InputError, if it is damaged, or has links."""
    params = {}

    def other_link(name, link):
        return None if isinstance(link, h5py.HardLink) else name

    def visit(name, node):
        if not isinstance(node, h5py.Dataset) or name.startswith('hickle_types_table/'):
            return
        if node.external or node.is_virtual:
            raise InputError(f'{path} keeps {name} in other files, which are not read')
        if node.dtype.kind in 'SVO' or node.dtype == np.uint8:
            raise InputError(f'{path} holds a pickle ({name}) instead of arrays; it is not loaded')
        if node.dtype.kind in 'fc':
            keys = [k.strip('\'"') for k in name.split('/') if not k.startswith('data')]
            params['.'.join(keys)] = torch.from_numpy(np.asarray(node[()]))

    try:
        with h5py.File(path, 'r') as f:
            if name := f.visititems_links(other_link):      # `visititems` would leave it out
                raise InputError(f'{path} has a link in the place of {name}, which is not followed')
            f.visititems(visit)
    except InputError:
        raise
    except Exception as e:      # a damaged file raises nearly anything
        raise InputError(f'cannot read {path} as HDF5: {e}') from None
    return params


def read_safetensors(path):
    """Read a .safetensors file. InputError, if it is damaged, or its package is missing."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f'{path}: to read it, install safetensors (pip install safetensors)'
                         ) from None
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as e:
        raise InputError(f'cannot read {path} as safetensors: {e}') from None
