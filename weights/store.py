"""Reading and writing files of parameters; names that stand for such files."""
import io
import os
import pathlib
import re

import h5py
import hickle
import torch

from system import files
from system.downloads import download_file
from utils import InputError, shown, without_prefix
from weights.architecture import ALEXNET, HEAD, SIGNATURE
from weights.formats import StandIn, array, check_regular, read_contents

# Nets that a name stands for: where the file is, the beginning of its sha256 ('' where nobody has
# published one), and the error that it should give: top-1 and top-5 on ImageNet, or on CIFAR-10.
TORCH_HOST = 'https://download.pytorch.org/models'
ZOO_HOST = 'https://s3.amazonaws.com/modelzoo-networks'
CIFAR_HOST = 'https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models'
OF_IMAGENET = {
    'resnet18': (f'{TORCH_HOST}/resnet18-f37072fd.pth', 'f37072fd', (30.24, 10.92)),
    'resnet34': (f'{TORCH_HOST}/resnet34-b627a593.pth', 'b627a593', (26.69, 8.58)),
    'resnet50': (f'{TORCH_HOST}/resnet50-0676ba61.pth', '0676ba61', (23.87, 7.14)),
    'resnet101': (f'{TORCH_HOST}/resnet101-63fe2227.pth', '63fe2227', (22.63, 6.45)),
    'mobilenet_v2': (f'{TORCH_HOST}/mobilenet_v2-b0353104.pth', 'b0353104', (28.12, 9.71)),
    'alexnet': (f'{TORCH_HOST}/alexnet-owt-7be5be79.pth', '7be5be79', (43.48, 20.93)),
    'resnet-34-export': (f'{ZOO_HOST}/resnet-34-export.pth', '', (26.72, 8.74)),
    'resnet-18-at-export': (f'{ZOO_HOST}/resnet-18-at-export.pth', '', (29.44, 10.12)),
}
OF_CIFAR = {
    'cifar10_resnet20': (f'{CIFAR_HOST}/resnet20-12fca82f.th', '12fca82f', (8.27,)),
    'cifar10_resnet32': (f'{CIFAR_HOST}/resnet32-d509ac18.th', 'd509ac18', (7.37,)),
    'cifar10_resnet44': (f'{CIFAR_HOST}/resnet44-014dd654.th', '014dd654', (6.90,)),
    'cifar10_resnet56': (f'{CIFAR_HOST}/resnet56-4bfd9763.th', '4bfd9763', (6.61,)),
}
KNOWN = {**OF_IMAGENET, **OF_CIFAR}
# what was trained with the net, and is not part of it
HELPERS = ('regressor.', 'attention.')
# counters of torch's batch normalisation, and of a package that counts multiply-adds
COUNTERS = re.compile(r'(.*\.)?(num_batches_tracked|total_ops|total_params)')
# where a checkpoint may have its weights; the first of these that is there is read
HOLDERS = ('params', 'state_dict', 'model_state_dict', 'model', 'net', 'network', 'student',
           'weights', 'module', 'model_ema', 'ema', 'state_dict_ema', 'ema_state_dict', 'teacher')
# the prefix of a net that is a running mean of another one beside it, or teaches it
OF_ANOTHER = re.compile(r'(^|[._])(teacher|ema|target|momentum|k)[._]')
WANTED = 'give weights of floating-point numbers'


# ---- reading ------------------------------------------------------------------------------------

def note(path, text):
    """Print what of a file was read or left out."""
    print(shown(f'{path}: {text}'))


def parameters(holder, path):
    """Find the parameters in what the file `path` holds: under one of HOLDERS, such as `params` of
    our and the published checkpoints, or in the dict itself; of a student beside its teacher, the
    student's. InputError, if there are none."""
    for _ in range(4):
        found = [k for k in HOLDERS if isinstance(holder, dict) and has_tensors(holder.get(k))]
        if not found:
            break
        if len(found) > 1 or 'ema' in found[0]:
            others = f', not {", ".join(found[1:])} beside it' if found[1:] else ''
            note(path, f'{found[0]} is read{others}')
        holder = holder[found[0]]
    params = tensors(holder, path)
    return without_prefix(params, 'student.') or params


def has_tensors(holder):
    """Return whether something may be a dict of weights, or a dict of such dicts."""
    return isinstance(holder, dict) and any(isinstance(v, (torch.Tensor, StandIn, dict))
                                            for v in holder.values())


def tensors(holder, path):
    """Return the entries of a dict of tensors from the file `path`, without prefixes of wrappers
    around the net or its parts. InputError, if it is no such dict, or a tensor is `unusable`."""
    if not isinstance(holder, dict) or not holder:
        raise InputError(f'{path} holds no dict of tensors')
    params = {}
    for k, v in holder.items():
        try:
            v = array(v)
        except ValueError as e:
            raise InputError(f'{path}: its entry {k} is {e}') from None
        if not isinstance(k, str) or not isinstance(v, torch.Tensor):
            raise InputError(f'{path} holds no dict of tensors: its entry {k} is of the type '
                             f'{type(v).__name__}')
        if kind := unusable(v):
            raise InputError(f'{path}: its entry {k} is {kind}; {WANTED}')
        parts = [part for part in k.split('.') if part not in ('module', '_orig_mod')]
        params['.'.join(parts)] = v.detach()
    return params


def unusable(v):
    """Say why a tensor cannot be computed with; '' if it can."""
    kinds = {'quantised': v.is_quantized, 'sparse': v.layout is not torch.strided,
             'nested': v.is_nested, 'complex': v.is_complex(), 'without values (meta)': v.is_meta}
    found = [kind for kind, is_so in kinds.items() if is_so]
    if not found and v.numel() * v.element_size() > v.untyped_storage().nbytes():
        return 'larger than what the file has of it'
    return found[0] if found else ''


def net_in(params, path):
    """Return the net in a dict of parameters, without the prefix of its entries. A head beside it
    is added; a line says what else is left out. An unknown net stays as it is."""
    prefixes = dict.fromkeys(m[1] for m in map(SIGNATURE.fullmatch, params) if m)
    if not prefixes or list(prefixes) == ['']:
        return params
    prefix, *others = sorted(prefixes, key=lambda p: bool(OF_ANOTHER.search(p)))
    other = tuple(p for p in others if p.startswith(prefix)) or ('\0',)
    net = {k: v for k, v in without_prefix(params, prefix).items()
           if not (prefix + k).startswith(other)}
    left = [k for k in params if k.removeprefix(prefix) not in net or not k.startswith(prefix)]
    parts = prefix.split('.')[:-1]
    for n in reversed(range(len(parts))):      # the prefixes around it, the nearest first
        parent = '.'.join([*parts[:n], ''])
        heads = {k: HEAD.fullmatch(k.removeprefix(parent)) for k in left if k.startswith(parent)}
        net = {**{m[1]: params[k] for k, m in heads.items() if m}, **net}
        left = [k for k in left if not heads.get(k)]
    if left:
        note(path, f'{prefix}* is read, not the {len(left)} entries beside it, such as {left[0]}')
    return net


def plain_head(params, path):
    """Rename the linear layer of a head `fc` that is a sequence to `fc`. A head of several layers,
    which none of these nets has, is left out."""
    several = [k for k in params if re.fullmatch(r'fc\.\d+\.\w+', k)]
    if not several:
        return params
    if len({k.split('.')[1] for k in several}) == 1:
        return {re.sub(r'^fc\.\d+\.', 'fc.', k): v for k, v in params.items()}
    note(path, f'its head of several layers, {several[0]} to {several[-1]}, is left out')
    return {k: v for k, v in params.items() if k not in several}


def with_some_head(params, head):
    """Add the linear layer `head`, of zeros for a single class, to a net that lacks it."""
    if head + '.weight' in params or not params:
        return params
    # the layer before the head has the most outputs
    widest = max(params.values(), key=lambda v: len(v) if v.ndim > 1 else 0)
    return {**params, head + '.weight': widest.new_zeros(1, len(widest)),
            head + '.bias': widest.new_zeros(1)}


def read_params(path):
    """Read the net in a file of weights (see `formats.read_contents`) -> a flat dict of tensors on
    the CPU, all float or all double. Statistics of BN that were fixed in training are running ones
    again. InputError, if the file is damaged or holds no net."""
    params = {re.sub(r'\.fixed_(mean|var)$', r'.running_\1', k): v
              for k, v in parameters(read_contents(path), path).items()
              if not k.startswith(HELPERS) and not COUNTERS.fullmatch(k)}
    params = plain_head(net_in(params, path), path)
    for k, v in params.items():
        if not v.is_floating_point():
            raise InputError(f'{path}: its entry {k} is of {v.dtype}; {WANTED}')
    double = any(v.dtype == torch.double for v in params.values())
    params = {k: v.to(torch.double if double else torch.float) for k, v in params.items()}
    broken = [k for k, v in params.items() if not v.isfinite().all()]
    if broken:
        note(path, f'{len(broken)} of its entries hold NaN or infinity, the first is {broken[0]}: '
                   f'results computed with them are meaningless')
    return from_caffe(params)


def options(path):
    """Read the options of the run of a checkpoint; {} for other files. InputError, if damaged."""
    holder = read_contents(path)
    made = holder.get('options') if isinstance(holder, dict) else None
    made = made if isinstance(made, dict) else {}
    for name, kind in (('input_size', int), ('input_pixels', str), ('class_names', list)):
        value = made.get(name, kind())
        texts = value if isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise InputError(f'{path} is damaged: the {name} of its run cannot be {value!r}')
    return made


def checkpoint(path):
    """Read the checkpoint from which a run continues, with its parameters as `params`. InputError,
    if the file is not a checkpoint, or is damaged."""
    state = read_contents(path)
    if not isinstance(state, dict):
        raise InputError(f'{path} is not a checkpoint of a run')
    state = {**state, 'params': parameters(state, path), 'path': path}
    if type(state.get('epoch')) is not int or state['epoch'] < 0:
        raise InputError(f'{path} is not a checkpoint of a run: its epoch is '
                         f'{state.get("epoch", "missing")}')
    if state.get('momenta', {}) != {}:
        state['momenta'] = tensors(state['momenta'], path)
    wrong = [k for k, v in state.get('momenta', {}).items()
             if v.shape != state['params'].get(k.removeprefix('student.'), v).shape]
    if wrong:
        raise InputError(f'{path} is damaged: the momentum of {wrong[0]} is of another shape')
    if not isinstance(state.get('line', {}), dict):
        raise InputError(f'{path} is damaged: its line of the log is not a dict')
    now, random = torch.get_rng_state(), state.get('random', {})
    cpu = random.get('cpu', now) if isinstance(random, dict) else None
    if getattr(cpu, 'shape', 0) != now.shape or cpu.dtype != now.dtype:
        raise InputError(f'{path} is damaged: its random state is invalid')
    return state


def from_caffe(params):
    """Rename the entries of a converted Caffe AlexNet to torchvision's names, whatever its layers
    are called (conv1 to fc8, or others in that order). Any other net stays as it is."""
    def order(key):
        """Convolutions first; by the numbers in their names."""
        return -params[key].ndim, [int(n) for n in re.findall(r'\d+', key)]

    layers = [k.removesuffix('.weight') for k in sorted(
        (k for k, v in params.items() if v.ndim in (2, 4)), key=order)]
    shapes = [tuple(params.get(f'{k}.weight', torch.empty(0)).shape[1:]) for k in layers]
    if shapes[:2] != [(3, 11, 11), (48, 5, 5)] or len(shapes) != 8:
        return params
    return {f'{name}.{part}': params[f'{layer}.{part}'].flatten() if part == 'bias' else
            params[f'{layer}.{part}'] for layer, name in zip(layers, ALEXNET, strict=True)
            for part in ('weight', 'bias')}


# ---- names --------------------------------------------------------------------------------------

def locate(name, known=KNOWN):
    """Find the file of parameters that a name stands for -> its path: a run under logs/, a run's
    folder, a file, or a key of `known`, which is downloaded into torch's folder of weights if need
    be. InputError, if there is no such file."""
    logs = pathlib.Path('logs')
    for path in (logs / name / 'model.pt7', pathlib.Path(name) / 'model.pt7', pathlib.Path(name)):
        if os.path.isfile(path):
            return path
    if name in known:
        url, sha256, _ = known[name]
        return download_file(url, pathlib.Path(torch.hub.get_dir(), 'checkpoints'), sha256)
    if os.path.isdir(name):
        raise InputError(f'{name} is a folder without the model.pt7 of a run. Checkpoints in '
                         f'results/ are not kept in git: train the net again (for a table: '
                         f'tables.py run TABLE --root logs)')
    if os.path.exists(name):
        check_regular(name)
    found = sorted(str(p.parent.relative_to(logs)) for p in logs.glob('**/model.pt7'))
    more = ', ...' if len(found) > 20 else ''
    raise InputError(f'there is no net {name}: it is neither a run nor a file. Runs under logs/: '
                     f'{", ".join(found[:20]) or "none"}{more}. Nets that can be downloaded: '
                     f'{", ".join(known)}')


# ---- writing ------------------------------------------------------------------------------------

def check_format(path):
    """Raise an InputError for the name of a file that `write_params` cannot write."""
    if str(path).endswith('.onnx'):
        raise InputError(f'{path}: write .pth; a few lines in docs/weights.md turn it into .onnx')
    if not str(path).endswith(('.pth', '.hkl')):
        raise InputError(f'{path}: write .pth (torch) or .hkl (hickle)')


def write_params(params, path):
    """Write a flat dict of tensors whole, as .pth or .hkl. InputError for other names."""
    check_format(path)
    params = {k: v.detach().cpu().contiguous() for k, v in params.items()}
    data = io.BytesIO()
    if str(path).endswith('.hkl'):
        with h5py.File(data, 'w') as f:
            hickle.dump({k: v.numpy() for k, v in params.items()}, f)
    else:
        torch.save(params, data)
    files.write_whole(path, data.getvalue())


def check_same(params, expected, path):
    """Raise an InputError, if parameters have other keys or shapes than expected ones."""
    own, its = ({k: tuple(v.shape) for k, v in d.items()} for d in (expected, params))
    differing = [k for k in own | its if own.get(k) != its.get(k)]
    if differing:
        first = '; '.join(f'{k}: {its.get(k, "missing")}, expected {own.get(k, "missing")}'
                          for k in differing[:3])
        raise InputError(f'{path} is of another architecture; {len(differing)} entries differ, '
                         f'the first are {first}')
