"""Parameter dicts, layers over them, attention maps and distillation losses: pure functions.

A net is `(f, params)`: `params` is one flat `dict[str, Tensor]` with dotted keys, and
`logits, groups = f(inputs, params, mode, base='')` computes it. Names, keys and arguments are
those of szagoruyko/attention-transfer, whose papers are
  Zagoruyko & Komodakis, 'Paying More Attention to Attention', https://arxiv.org/abs/1612.03928
  Hinton et al., 'Distilling the Knowledge in a Neural Network', https://arxiv.org/abs/1503.02531
Here too: the errors of which a user is told in a line, InputError and RunError, and what makes a
text fit for the screen, `printable` and `shown`.
"""
import math
import os
import re

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.init import kaiming_normal_


class InputError(ValueError):
    """What the user gave cannot be used: the message says what is wrong and what to do."""


class RunError(RuntimeError):
    """A run cannot go on, through no fault of the code: the disk is full, the loss not finite."""


def printable(text) -> str:
    """Escape what cannot be displayed in a text, or in the name of a file, str or bytes: control
    characters, and what is not UTF-8."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode()
                   for c in os.fsdecode(text))


def shown(text: str) -> str:
    """Shorten a message for the screen, to at most three lines and a thousand characters, take the
    middle out of long words, and make it `printable`."""
    def short(m):
        return f'{m[0][:38]}...{m[0][-39:]}'

    lines = map(printable, text.splitlines()[:3])
    text = re.sub(r'\S{81,}', short, '\n'.join(lines))
    return text if len(text) <= 1000 else f'{text[:500]} ... {text[-495:]}'


# ---- parameter dicts --------------------------------------------------------------------------

def cast(params, dtype: str = 'float'):
    """Convert a tensor, or each tensor of a dict, to `dtype`, on the GPU if there is one."""
    if isinstance(params, dict):
        return {k: cast(v, dtype) for k, v in params.items()}
    return getattr(params.cuda() if torch.cuda.is_available() else params, dtype)()


def conv_params(ni: int, no: int, k: int = 1) -> Tensor:
    """Draw He-normal filters, (no, ni, k, k)."""
    return kaiming_normal_(torch.empty(no, ni, k, k))


def linear_params(ni: int, no: int) -> dict[str, Tensor]:
    """Draw a He-normal weight (no, ni), and make a zero bias (no,)."""
    return {'weight': kaiming_normal_(torch.empty(no, ni)), 'bias': torch.zeros(no)}


def bnparams(n: int) -> dict[str, Tensor]:
    """Make scale, shift and running statistics, each (n,); the scale is uniform in [0, 1)."""
    return {'weight': torch.rand(n), 'bias': torch.zeros(n),
            'running_mean': torch.zeros(n), 'running_var': torch.ones(n)}


def conv_bn_params(conv: str, ni: int, no: int, k: int = 1,
                   weight: str = '.weight') -> dict[str, Tensor]:
    """Draw the filters of the convolution `conv`, entry `conv` + `weight`, and make `bnparams` of
    the normalisation after it, with a scale of one, as in fb.resnet.torch and torchvision."""
    return flatten({conv + weight: conv_params(ni, no, k),
                    bn_of(conv): {**bnparams(no), 'weight': torch.ones(no)}})


def scaled(channels, width: float) -> list[int]:
    """Multiply numbers of channels by `width`, rounded down. InputError, if one becomes zero."""
    widths = [int(c * width + 1e-9) for c in channels]
    if not all(widths):
        raise InputError(f'--width {width:g} leaves no channels')
    return widths


def flatten(params: dict) -> dict[str, Tensor]:
    """Flatten nested dicts into one with dotted keys; entries that are None are left out."""
    flat = {}
    for key, value in params.items():
        if isinstance(value, dict):
            flat.update({f'{key}.{k}': v for k, v in flatten(value).items()})
        elif value is not None:
            flat[key] = value
    return flat


def is_statistic(key: str) -> bool:
    """Return whether an entry is not trained: a running statistic, or a setting of a gate or of
    dropout."""
    return key.endswith(('_mean', '_var', '.gate.dynamic', '.gate.mask', '.gate.density',
                         '.dropout'))


def fix_statistics(params: dict[str, Tensor], bases) -> dict[str, Tensor]:
    """Rename the statistics of the normalisations `bases` from `running_` to `fixed_`, which
    `batch_norm` uses in training too, and leaves as they are."""
    names = {f'{base}.running_{k}': f'{base}.fixed_{k}' for base in bases for k in ('mean', 'var')}
    return {names.get(k, k): v for k, v in params.items()}


def set_requires_grad_except_bn_(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make all entries trainable, in place, except those that are `is_statistic` -> params."""
    for key, value in params.items():
        value.requires_grad = not is_statistic(key)
    return params


def with_prefix(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Put `prefix` before all keys."""
    return {prefix + k: v for k, v in params.items()}


def without_prefix(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose keys begin with `prefix`, without the prefix."""
    return {k[len(prefix):]: v for k, v in params.items() if k.startswith(prefix)}


def print_tensor_dict(params: dict[str, Tensor]) -> None:
    """Print number, key, shape and type of each entry, and whether it is fixed."""
    width = max(map(len, params), default=0)
    for i, (key, v) in enumerate(params.items()):
        print(f'{i:<5} {key:<{width}}  {str(tuple(v.shape)):<20} {torch.typename(v)}'
              f'{"" if v.requires_grad else "  fixed"}')


def at_least_float(x: Tensor) -> Tensor:
    """Convert bfloat16 and half to float; float and double stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- layers -----------------------------------------------------------------------------------

def check_mode(mode: bool) -> None:
    """Raise a TypeError unless `mode` is True or False."""
    if not isinstance(mode, bool):
        raise TypeError(f'mode is True (training) or False (evaluation), not {mode!r}')


def batch_norm(x: Tensor, params: dict[str, Tensor], base: str, mode: bool,
               affine: bool = True) -> Tensor:
    """Apply batch normalisation to x (B, C, H, W) by the entries of `params` under `base`; without
    scale and shift unless `affine`.

    The one impurity of all nets here: with `mode` True, `base.running_mean` and `base.running_var`
    are updated in place. `base.fixed_mean` and `base.fixed_var`, if they are there, are used in
    either mode, and stay. InputError, if training gives a channel only one value.
    """
    check_mode(mode)
    fixed = base + '.fixed_mean' in params
    mean, var = (params[f'{base}.{"fixed" if fixed else "running"}_{k}'] for k in ('mean', 'var'))
    scale, shift = (params[f'{base}.{k}'] if affine else None for k in ('weight', 'bias'))
    if mode and not fixed and x.numel() == x.shape[1]:
        raise InputError('batch normalisation needs two values of each channel in training: give a '
                         'larger --batch_size, or larger images')
    return F.batch_norm(x, mean, var, scale, shift, training=mode and not fixed)


# `taps`, where a layer takes it, is a dict whose keys are full names of layers. A convolution or
# linear layer that is named there puts its raw output into it, a normalisation its input.

def conv2d(x: Tensor, params: dict[str, Tensor], key: str, stride: int = 1, padding: int = -1,
           groups: int = 1, taps: dict | None = None) -> Tensor:
    """Convolve x with the filters `key` or `key.weight`, and add the bias `key.bias` if there is
    one. The padding keeps the size unless it is given."""
    weight = params[key] if key in params else params[key + '.weight']
    padding = weight.shape[2] // 2 if padding < 0 else padding
    how = (params.get(key + '.bias'), stride, padding, 1, groups)
    if stride > 1 and groups > 1 and x.requires_grad and x.is_cpu and x.dtype == torch.bfloat16:
        # on CPUs the bfloat16 gradient of a strided depthwise convolution (oneDNN's, torch 2.13)
        # takes ten times as long as the one in float
        with torch.autocast('cpu', enabled=False):
            return tap(F.conv2d(x.float(), weight.float(), *how).to(x.dtype), key, taps)
    return tap(F.conv2d(x, weight, *how), key, taps)


def linear(x: Tensor, params: dict[str, Tensor], key: str, mode: bool,
           taps: dict | None = None) -> Tensor:
    """Apply the linear layer `key` to x (B, C). If there is a layer `key.bottleneck`, it and ReLU
    come first, and then dropout, if there is a probability `key.bottleneck.dropout` (). The tap
    'key.input' is what enters the layer itself."""
    check_mode(mode)
    if key + '.bottleneck.weight' in params:
        x = F.relu(linear(x, params, key + '.bottleneck', mode, taps))
        p = params.get(key + '.bottleneck.dropout')
        if mode and p is not None:      # p stays on the device, so F.dropout cannot take it
            x = x * (torch.rand_like(x) >= p) / (1 - p)
    x = tap(x, key + '.input', taps)
    return tap(F.linear(x, params[key + '.weight'], params[key + '.bias']), key, taps)


def tap(x: Tensor, key: str, taps: dict | None) -> Tensor:
    """Keep x in `taps`, if that has the key, and return it or, since later layers may work in
    place, a copy of what is kept."""
    if taps is None or key not in taps:
        return x
    taps[key] = x
    return x.clone()


def norm(x: Tensor, params: dict[str, Tensor], base: str, mode: bool,
         taps: dict | None = None) -> Tensor:
    """Normalise x by the entries under `base`: by batch normalisation; without running statistics,
    by a fixed scale and shift (`weight` and `bias`, or functional-zoo's `a` and `b`); without
    entries not at all, since BN was folded into the convolution before it."""
    x = tap(x, base, taps)
    if base + '.running_mean' in params or base + '.fixed_mean' in params:
        return batch_norm(x, params, base, mode)
    for scale, shift in (('.weight', '.bias'), ('.a', '.b')):
        if base + scale in params:
            return x * params[base + scale][:, None, None] + params[base + shift][:, None, None]
    return x


def bn_of(conv: str) -> str:
    """Return the name of the normalisation after a convolution, as torchvision and the published
    code call it: bn1 after conv1, bndim after convdim and conv_dim, downsample.1 after
    downsample.0."""
    base, _, last = conv.rpartition('.')
    last = str(int(last) + 1) if last.isdecimal() else last.replace('conv', 'bn').replace('_', '')
    return f'{base}.{last}' if base else last


def conv_bn(x: Tensor, params: dict[str, Tensor], key: str, mode: bool, stride: int = 1,
            groups: int = 1, taps: dict | None = None, bn: str = '') -> Tensor:
    """Apply the convolution `key` and the normalisation `bn` (by default, `bn_of` names it), which
    is `gated` if it has a gate."""
    y, base = conv2d(x, params, key, stride, groups=groups, taps=taps), bn or bn_of(key)
    if base + '.gate.weight' in params:
        return gated(y, x, params, base, mode, taps)
    return norm(y, params, base, mode, taps)


def gated(y: Tensor, x: Tensor, params: dict[str, Tensor], base: str, mode: bool,
          taps: dict | None = None) -> Tensor:
    """Apply batch normalisation to y (B, C, H, W), which a convolution made of x, with a scale pi
    (B, C) for each image, by the entries under `base.gate` (see methods/gates.py).

    h = ReLU(weight GAP(x) + bias); q is h where it is among the largest, a part `density` of the
    channels that are not masked, and 0 elsewhere; pi = mask (dynamic q + (1 - dynamic) scale).
    Where pi is 0, so is the output, without a shift. The tap 'base.gate' is pi, 'base.gate.q' is q.
    """
    weight, bias, scale, dynamic, mask, density = (params[f'{base}.gate.{k}'] for k in (
        'weight', 'bias', 'scale', 'dynamic', 'mask', 'density'))
    h = F.relu(F.linear(x.mean((2, 3)), weight, bias)) * mask
    # in tensors, so that nothing waits for the device; less a thousandth, since single precision
    # makes a little more of densities such as 0.6
    count = (density.float() * mask.float().sum() - 1e-3).ceil()
    ranks = h.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    q = tap(h * (ranks < count), base + '.gate.q', taps)
    pi = tap(mask * (dynamic * q + (1 - dynamic) * scale), base + '.gate', taps)[:, :, None, None]
    y = batch_norm(tap(y, base, taps), params, base, mode, affine=False)
    shift = (pi != 0) * params[base + '.bias'][:, None, None]
    return pi.to(y.dtype) * y + shift.to(y.dtype)       # y is bfloat16 under autocast


def residual_groups(x: Tensor, blocks: tuple, block, name: str, params: dict[str, Tensor],
                    mode: bool, taps: dict | None, first: int = 0) -> tuple:
    """Apply the groups of a residual net, with `blocks` in each -> the output of each group.
    block(x, params, base, mode, stride, taps) applies one; `name` is the format of its base, which
    takes the numbers of the group, from `first`, and of the block, from 0. All groups but the first
    begin with a stride of 2."""
    groups = []
    for j, n in enumerate(blocks):
        for i in range(n):
            x = block(x, params, name.format(j + first, i), mode, 1 if i or not j else 2, taps)
        groups.append(x)
    return tuple(groups)


# ---- attention and distillation ---------------------------------------------------------------

# F_sum, F²_sum, F⁴_sum and F¹_max of the attention paper (section 3.1), as norms over channels
MAPPINGS = {'sum': 1, 'sum2': 2, 'sum4': 4, 'max': math.inf}


def attention_map(x: Tensor, mapping: str = 'sum2') -> Tensor:
    """Compute the attention maps of the paper's section 3.1, activations (B, C, H, W) -> (B, H, W),
    in single precision at least.

    mapping: a key of MAPPINGS; 'sum2', F²_sum, is the published code's. As there, it is the mean
    over channels instead of the sum; after the normalisation of `at` that makes no difference.
    """
    p, dtype = MAPPINGS[mapping], torch.promote_types(x.dtype, torch.float32)
    q = torch.linalg.vector_norm(x, p, dim=1, dtype=dtype)
    return q if p == math.inf else q ** p / x.shape[1]


def at(x: Tensor, size=None, mapping: str = 'sum2') -> Tensor:
    """Compute the attention Q/||Q||_2 of Eq. 2: activations (B, C, H, W) -> (B, H*W). The map is
    resized to `size` (height, width) before it is normalised."""
    q = attention_map(x, mapping)
    if size is not None and tuple(size) != tuple(q.shape[1:]):
        q = F.interpolate(q[:, None], tuple(size), mode='bilinear', antialias=True)[:, 0]
    return F.normalize(q.flatten(1))


def at_loss(x: Tensor, y: Tensor, mapping: str = 'sum2', mode: str = 'code') -> Tensor:
    """Compute the loss of attention transfer between the student's activations x and the teacher's
    y, whose map is resized to x's height and width.

    mode 'code', the published form: the mean over batch and positions of the squared difference
    of the two attentions. mode 'paper', Eq. 2: half the difference's l2 norm, averaged over the
    batch.
    """
    difference = at(x, mapping=mapping) - at(y, x.shape[2:], mapping)
    if mode == 'paper':
        return torch.linalg.vector_norm(difference, dim=1).mean() / 2
    return difference.square().mean()


def activation_loss(x: Tensor, y: Tensor) -> Tensor:
    """Compute the loss F-ActT of the paper's table 1: the squared l2 distance of full activations,
    (B, C, H, W) both, each image's divided by their l2 norm; averaged over the batch."""
    x, y = (F.normalize(at_least_float(v).flatten(1)) for v in (x, y))
    return (x - y).square().sum(1).mean()


def gradient_loss(j: Tensor, target: Tensor | float = 0.) -> Tensor:
    """Compute half the squared l2 norm of j - target, (B, 3, H, W), averaged over the batch.

    Between the J of student and teacher this is Eq. 4 (with the square that Eq. 5 differentiates);
    between J and the mirrored J of the mirrored image, Eq. 6; with zero, the penalty on the
    gradient's norm of Drucker & LeCun, 'Improving generalization performance using double
    backpropagation', 1992.
    """
    return (j - target).flatten(1).square().sum(1).mean() / 2


def distillation(y: Tensor, teacher_scores: Tensor, labels: Tensor, T: float, alpha: float):
    """Compute the loss of distillation: alpha T² KL(teacher || student) + (1 - alpha) cross-entropy
    (Hinton et al., section 2).

    y and teacher_scores (B, K) are logits, labels (B,) class numbers; KL, at temperature T, is
    summed over classes and averaged over the batch.
    """
    p = F.log_softmax(y / T, dim=1)
    q = F.softmax(teacher_scores / T, dim=1)
    return (F.kl_div(p, q, reduction='batchmean') * T ** 2 * alpha
            + F.cross_entropy(y, labels) * (1 - alpha))
