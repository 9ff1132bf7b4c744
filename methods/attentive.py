"""Attention to features that is learned while a net is fine-tuned, from the source's features.

  AFD, AFS: Wang et al., 'Pay Attention to Features, Transfer Learn Faster CNNs', ICLR 2020,
  https://openreview.net/forum?id=ryxyCeHtPB (from secondary sources: its text was not available)
  AFA: Xie et al., 'Towards Effective Deep Transfer via Attentive Feature Alignment', Neural
  Networks 138, 2021; code https://github.com/xiezheng-cs/AFA

Its parameters are entries of a net's dict under 'attention.<layer>.', which say what is computed.
The channel attention of AFD and of AFA's second stage (ACT) is one function: they differ in their
initial entries, and in a bias.
"""
import itertools
import math

import torch
import torch.nn.functional as F

from engine import runs, step
from system import processes
from utils import InputError, at_least_float, flatten, without_prefix
from weights import facts, store

# ---- initial entries, for features (C, H, W) of a layer -----------------------------------------

def uniform(no, ni):
    """Draw a matrix (no, ni) as torch's linear layers do."""
    return torch.empty(no, ni).uniform_(-1, 1) / math.sqrt(ni)


def normal(no, ni):
    """Draw a He-normal matrix (no, ni)."""
    return torch.randn(no, ni) * math.sqrt(2 / ni)


def afd_entries(c, h, w):
    """Draw AFD's entries: each channel's map, flattened, through H hidden values to one; biases."""
    return {'hidden.weight': normal(h, h * w), 'hidden.bias': torch.zeros(h),
            'out.weight': normal(1, h), 'bias': torch.zeros(c)}


def act_entries(c, h, w):
    """Draw those of AFA's second stage: as AFD's, but no bias of hidden values (table 1, MLP_c)."""
    return {'hidden.weight': uniform(h, h * w), 'out.weight': uniform(1, h), 'bias': torch.zeros(c)}


def squeeze_entries(c, h, w):
    """Draw those of squeeze and excitation with C hidden values, which Knowledge-Distillation-Zoo
    has in place of AFD's attention, as it found that unstable."""
    return {'squeeze.weight': normal(c, c), 'squeeze.bias': torch.zeros(c),
            'excite.weight': normal(c, c), 'excite.bias': torch.zeros(c)}


def ast_entries(c, h, w):
    """Draw those of AFA's first stage: the mean of all channels' maps through H hidden values to
    one for each position (table 1, MLP_s)."""
    return {'hidden.weight': uniform(h, h * w), 'out.weight': uniform(h * w, h),
            'out.bias': uniform(h * w, h)[:, 0].clone()}


def both_entries(c, h, w):
    """Draw those of AFA in one stage: of both stages, under 'ast' and 'act'."""
    return flatten({'ast': ast_entries(c, h, w), 'act': act_entries(c, h, w)})


# the methods that learn attention
ENTRIES = {'afd': afd_entries, 'ast': ast_entries, 'act': act_entries, 'ast_act': both_entries}


def attention_of(opt, f, params, layers, size, generator):
    """Draw the entries of a method's learned attention to the layers of a net (f, params) for
    images of size x size pixels; {} for methods without."""
    if opt.method not in ENTRIES:
        return {}
    kind = squeeze_entries if opt.channel_attention == 'se' else ENTRIES[opt.method]
    taps = dict.fromkeys(layers)
    f(*facts.on_meta(params, size), False, taps=taps)
    with runs.drawing_from(generator):
        found = flatten({f'attention.{k}': kind(*x.shape[1:]) for k, x in taps.items()})
    return {k: v.requires_grad_() for k, v in found.items()}


# ---- attention ----------------------------------------------------------------------------------

def channel_attention(x, params, base):
    """Compute attention to the channels of the source's features (B, C, H, W), by the entries under
    `base` -> (B, C), of sum 1 (AFD; ACT, Eq. 7)."""
    own = without_prefix(params, base + '.')
    if 'fixed' in own:
        return own['fixed'].expand(len(x), -1)
    if 'squeeze.weight' in own:
        o = F.relu(F.linear(x.mean((2, 3)), own['squeeze.weight'], own['squeeze.bias']))
        o = at_least_float(F.linear(o, own['excite.weight'], own['excite.bias'])).sigmoid()
        return o / o.sum(1, keepdim=True)
    o = F.relu(F.linear(x.flatten(2), own['hidden.weight'], own.get('hidden.bias')))
    return at_least_float(F.linear(o, own['out.weight'])[:, :, 0] + own['bias']).softmax(1)


def spatial_attention(x, params, base):
    """Compute attention to the positions of the source's features (B, C, H, W), by the entries
    under `base` -> (B, H, W), of sum 1 (AST, Eq. 5)."""
    own = without_prefix(params, base + '.')
    if 'fixed' in own:
        return own['fixed'].expand(len(x), -1, -1)
    o = F.relu(F.linear(x.mean(1).flatten(1), own['hidden.weight']))
    o = at_least_float(F.linear(o, own['out.weight'], own['out.bias'])).softmax(1)
    return o.unflatten(1, x.shape[2:])


def entropy(attention):
    """Return the entropy of attention (B, ...) as a part of that of uniform attention, 0 to 1, the
    mean over the batch."""
    p = attention.flatten(1)
    return torch.special.entr(p).sum(1).mean() / math.log(max(2, p.shape[1]))


# ---- fixed attention ----------------------------------------------------------------------------

def with_fixed(opt, f, params, layers, batches):
    """Replace the attention in the params of a training by that of the run --fixed_attention, the
    mean over the images in `batches`: entries '<base>.fixed', (C,) or (H, W) of sum 1, which are
    not trained. f: the source's function. InputError, if that run has not learned such attention.
    """
    drawn = {k: v for k, v in params.items() if k.startswith('attention.')}
    path = store.locate(opt.fixed_attention)
    learned = {k: v for k, v in store.checkpoint(path)['params'].items()
               if k.startswith('attention.')}
    if not learned:
        raise InputError(f'--fixed_attention {opt.fixed_attention}: this run has learned no '
                         f'attention; name one of --method {opt.method}')
    store.check_same(learned, drawn, path)
    params = {**params, **{k: learned[k].to(v) for k, v in drawn.items()}}
    found = processes.from_first(lambda: means(opt, f, params, layers, batches))
    device = next(iter(drawn.values())).device
    return {**{k: v for k, v in params.items() if k not in drawn},
            **{k: v.to(device) for k, v in found.items()}}


@torch.no_grad()
def means(opt, f, params, layers, batches):
    """Average attention over batches of images -> {'<base>.fixed': (C,) or (H, W)}, on the CPU."""
    sums, n = {}, 0
    for inputs, _ in batches:
        taps = {f'teacher.{k}': None for k in layers}
        with step.precision(opt.dtype, inputs.device):
            f(inputs, params, False, 'teacher.', taps=taps)
            for layer, part in itertools.product(layers, ('', '.ast', '.act')):
                base, x = f'attention.{layer}{part}', taps[f'teacher.{layer}']
                attend = spatial_attention if f'{base}.out.bias' in params else channel_attention
                if {f'{base}.out.weight', f'{base}.excite.weight'} & set(params):
                    sums[base] = sums.get(base, 0) + attend(x, params, base).sum(0).cpu()
        n += len(inputs)
    return {f'{base}.fixed': v / n for base, v in sums.items()}
