"""Attention over features that is learned while a net is fine-tuned, from the source's features.

  AFD: Wang et al., 'Pay Attention to Features, Transfer Learn Faster CNNs', ICLR 2020,
  https://openreview.net/forum?id=ryxyCeHtPB
  AFA: Xie et al., 'Towards Effective Deep Transfer via Attentive Feature Alignment', Neural
  Networks 138, 2021; code https://github.com/xiezheng-cs/AFA

Its entries are those of a net's dict under 'attention.<layer>.', which say what is computed.
AFD's channel attention and that of AFA's second stage (ACT) are one function; they differ in how
their entries start, and in a bias. AFD follows secondary sources: its paper's text was not at hand.
"""
import math

import torch
import torch.nn.functional as F

from engine import runs
from utils import at_least_float, flatten
from weights import facts


def uniform(no, ni):
    """Draw a matrix (no, ni) as torch's linear layers do."""
    return torch.empty(no, ni).uniform_(-1, 1) / math.sqrt(ni)


def normal(no, ni):
    """Draw a He-normal matrix (no, ni)."""
    return torch.randn(no, ni) * math.sqrt(2 / ni)


# ---- entries: initial ones for features (C, H, W) of a layer -------------------------------------

def afd_entries(c, h, w):
    """AFD: each channel's map, flattened, through H hidden values to one, a bias per channel."""
    return {'hidden.weight': normal(h, h * w), 'hidden.bias': torch.zeros(h),
            'out.weight': normal(1, h), 'bias': torch.zeros(c)}


def act_entries(c, h, w):
    """AFA's second stage: as AFD, without the hidden values' bias."""
    return {'hidden.weight': uniform(h, h * w), 'out.weight': uniform(1, h), 'bias': torch.zeros(c)}


def squeeze_entries(c, h, w):
    """Squeeze and excitation with as many hidden channels, by which Knowledge-Distillation-Zoo
    replaced AFD's attention, which it found to be unstable."""
    return {'squeeze.weight': normal(c, c), 'squeeze.bias': torch.zeros(c),
            'excite.weight': normal(c, c), 'excite.bias': torch.zeros(c)}


def ast_entries(c, h, w):
    """AFA's first stage: the channels' mean map through H hidden values to one per position."""
    return {'hidden.weight': uniform(h, h * w), 'out.weight': uniform(h * w, h),
            'out.bias': uniform(h * w, h)[:, 0].clone()}


def attention_of(opt, f, params, layers, size, generator):
    """Draw the entries of a method's learned attention to the layers; {} for other methods."""
    kinds = {'afd': afd_entries, 'ast': ast_entries, 'act': act_entries}
    if opt.method not in kinds:
        return {}
    kind = squeeze_entries if opt.channel_attention == 'se' else kinds[opt.method]
    image, meta_params = facts.on_meta(params, size)
    taps = dict.fromkeys(layers)
    f(image, meta_params, False, taps=taps)
    with runs.drawing_from(generator):
        found = {f'attention.{k}': kind(*x.shape[1:]) for k, x in taps.items()}
    return {k: v.requires_grad_() for k, v in flatten(found).items()}


# ---- attention -----------------------------------------------------------------------------------

def channel_attention(x, params, base):
    """Compute attention to the channels of the source's features (B, C, H, W), by the entries under
    `base` -> (B, C), which sum to 1."""
    def get(key):
        return params.get(f'{base}.{key}')

    if get('squeeze.weight') is not None:
        o = F.relu(F.linear(x.mean((2, 3)), get('squeeze.weight'), get('squeeze.bias')))
        o = at_least_float(F.linear(o, get('excite.weight'), get('excite.bias'))).sigmoid()
        return o / o.sum(1, keepdim=True)
    o = F.relu(F.linear(x.flatten(2), get('hidden.weight'), get('hidden.bias')))
    o = F.linear(o, get('out.weight'))[:, :, 0] + get('bias')
    return at_least_float(o).softmax(1)


def spatial_attention(x, params, base):
    """Compute attention to the positions of the source's features (B, C, H, W) -> (B, H, W), which
    sum to 1 (AST)."""
    o = F.relu(F.linear(x.mean(1).flatten(1), params[f'{base}.hidden.weight']))
    o = F.linear(o, params[f'{base}.out.weight'], params[f'{base}.out.bias'])
    return at_least_float(o).softmax(1).unflatten(1, x.shape[2:])


def entropy(p):
    """Entropy of attention (B, ...), relative to uniform attention: 0 to 1, averaged over the
    batch."""
    p = p.flatten(1)
    return torch.special.entr(p).sum(1).mean() / math.log(max(2, p.shape[1]))
