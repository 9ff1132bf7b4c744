"""Which net a dict of parameters is: the one place that tells it from the entries."""
import collections
import re
from typing import NamedTuple

import utils
from utils import InputError
from weights import facts


class Names(NamedTuple):
    """What a residual net calls its entries; those of normalisations follow by utils.bn_of."""
    stem: str           # the first convolution
    block: str          # block i of group j, both from 0
    first: int          # where the numbers of convolutions, and of torchvision's groups, begin
    projection: str


PUBLISHED = Names('conv0', 'group{}.block{}', 0, 'convdim')
ZOO = PUBLISHED._replace(projection='conv_dim')     # functional-zoo's exports
TORCHVISION = Names('conv1', 'layer{}.{}', 1, 'downsample.0')

# blocks in each group of the ResNets that have a name
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXTRA_LAYERS = {'wrn': 4, 'cifar_resnet': 2}        # CIFAR's residual nets have 6n + these
# AlexNet's five convolutions and three linear layers
ALEXNET = (*(f'features.{k}' for k in (0, 3, 6, 8, 10)), *(f'classifier.{k}' for k in (1, 4, 6)))
# a convolution by which a known net is recognised, after any prefix; the entries of its head
SIGNATURE = re.compile(r'(.*\.|)(layer1\.0\.conv1\.weight|group0\.(block0\.conv0|layer0\.conv)'
                       r'(\.weight)?|features\.(1\.conv\.0\.0|3)\.weight)')
HEAD = re.compile(r'(?:head\.)?((?:fc|linear|classifier(?:\.\d)?)\.(?:weight|bias))')


class Channels(NamedTuple):
    """Channels between layers that no other layer reads or adds to, so that they can be pruned."""
    makers: list        # the convolutions that output them
    readers: list       # the convolutions or linear layers that take them as inputs
    norms: list         # the normalisation of each maker


class Architecture(NamedTuple):
    """What the entries tell about a net; an unknown one has no kind."""
    kind: str = ''              # which function computes it
    arch: str = ''              # its name as --arch takes it; '' for others
    blocks: tuple = ()          # in each group of a residual net
    names: Names | None = None  # of a residual net's entries
    hidden: tuple = ()          # the linear layers before the head
    head: str = 'fc'            # the last linear layer
    stages: tuple = ()          # the last convolution of each, which fine-tuning compares
    channels: dict = {}         # {the first of their makers: Channels}
    size: int = 224             # height and width of the images that it is for, in pixels
    pixels: str = 'torchvision'     # their normalisation, a key of data.arrays.PIXELS


def architecture_of(params):
    """Recognise a net by the names and shapes of its entries -> its `Architecture`. Whether all
    entries fit into such a net is for `net_of` to check."""
    if 'features.1.conv.0.0.weight' in params:
        found = Architecture('mobilenet_v2', 'mobilenet_v2', head='classifier.1',
                             stages=tuple(f'features.{i}.conv.2' for i in (5, 9, 13, 17)))
    elif 'features.0.weight' in params and 'classifier.4.weight' in params:
        found = Architecture('alexnet', 'alexnet', hidden=ALEXNET[5:7], head=ALEXNET[7],
                             stages=ALEXNET[:2] + ALEXNET[3:5])
        second = params.get('features.3.weight')
        if second is not None and second.shape[1:2] == (48,):       # it has two groups
            found = found._replace(kind='caffenet', size=227, pixels='caffe')
    elif 'group0.layer0.conv' in params:
        found = Architecture('nin', size=32, pixels='cifar')
    else:
        found = residual_of(params)
    return found._replace(channels=channels_of(params, found.kind))


def residual_of(params):
    """Recognise a residual net -> its `Architecture`, without channels; for others the default."""
    matches = (re.fullmatch(r'(?:group|layer)(\d+)\.\D*\d+\.conv1(?:\.weight)?', k) for k in params)
    counts = collections.Counter(int(m[1]) for m in matches if m)
    blocks = tuple(counts[j] for j in sorted(counts))
    torchvisions = 'layer1.0.conv1.weight' in params
    if len(blocks) == 4:
        kind = 'preactivation' if any(k.startswith('affine_last') for k in params) else 'resnet'
        names = ZOO if any('.conv_dim' in k for k in params) else PUBLISHED
        names, own = TORCHVISION if torchvisions else names, {}
    elif len(blocks) == 3 and (torchvisions or 'group0.block0.conv0' in params):
        kind, names = ('cifar_resnet', TORCHVISION) if torchvisions else ('wrn', PUBLISHED)
        if any('.shortcut.0.' in k for k in params):
            names = names._replace(projection='shortcut.0')
        head = 'linear' if 'linear.weight' in params else 'fc'
        own = {'size': 32, 'pixels': 'cifar', 'head': head}
    else:
        return Architecture()
    stem = params.get(weight_of(params, names.stem))
    if len(blocks) == 4 and stem is not None and stem.shape[2:] != (7, 7):
        return Architecture()       # such as a ResNet-18 for CIFAR, whose strides differ
    deep = any(f'.conv{names.first + 2}' in k for k in params)
    last = f'.conv{names.first + 1 + deep}'
    stages = tuple(names.block.format(j + names.first, n - 1) + last
                   for j, n in enumerate(blocks))
    arch = next((f'resnet{d}' for d, n in BLOCKS.items() if n == blocks and deep == (d >= 50)), '')
    filters = params.get(weight_of(params, stages[0]))
    if kind in EXTRA_LAYERS and len(set(blocks)) == 1 and filters is not None and filters.ndim == 4:
        arch = f'{kind}-{6 * blocks[0] + EXTRA_LAYERS[kind]}-{len(filters) / 16:g}'
    return Architecture(kind, arch, blocks, names, stages=stages, **own)


def input_of(opt, params, made=None, images=None):
    """Return height and width of the images that a net takes, and the name of their pixels'
    normalisation: by the flags, else by the options `made` of the run that made it, else by what
    the net is. One for CIFAR takes `images` in memory, (N, H, W, 3), as they are."""
    made, found = made or {}, architecture_of(params)
    held = found.pixels == 'cifar' and images is not None and images.ndim == 4
    return (opt.size or made.get('input_size') or (images.shape[1] if held else found.size),
            opt.pixels or made.get('input_pixels') or found.pixels)


def weight_of(params, layer):
    """Return the key of a layer's filters or matrix."""
    return layer if layer in params else layer + '.weight'


def convolutions(params):
    """Return the names of a net's convolutions, as `utils.conv2d` takes them."""
    return [k.removesuffix('.weight') for k, v in params.items() if v.ndim == 4]


def channels_of(params, kind):
    """Find the channels that can be pruned: {convolution: Channels}.

    In a residual block all but the last convolution, since residual sums keep their width; in
    MobileNetV2 the expanded channels, which a depthwise convolution hands on (the first block has
    none), and those before the head. No channels of other nets.
    """
    convs, sets = dict.fromkeys(convolutions(params)), {}
    for conv in convs:
        block, hidden = re.fullmatch(r'(.+\.conv)(\d)', conv), conv.removesuffix('.0.0')
        following = f'{block[1]}{int(block[2]) + 1}' if block else ''
        if kind and following in convs:
            # pre-activation nets call it what they call the normalisation before the next layer
            norms = {'wrn': utils.bn_of(following),
                     'preactivation': conv.replace('.conv0', '.affine1')}
            sets[conv] = Channels([conv], [following], [norms.get(kind, utils.bn_of(conv))])
        elif kind == 'mobilenet_v2' and conv == f'{hidden}.0.0' and f'{hidden}.1.0' in convs:
            makers = [conv, f'{hidden}.1.0']
            sets[conv] = Channels(makers, [f'{hidden}.2'], [utils.bn_of(k) for k in makers])
        elif kind == 'mobilenet_v2' and re.fullmatch(r'features\.[1-9]\d*\.0', conv):
            readers = [k for k in ('classifier.1.bottleneck', 'classifier.1')
                       if k + '.weight' in params][:1]
            sets[conv] = Channels([conv], readers, [utils.bn_of(conv)])
    return sets


def net_of(functions, params, path):
    """Make the function of the net with these parameters, which the file `path` holds -> (f, number
    of classes). functions: {kind: function of an `Architecture` that gives f}. InputError, if the
    net is of no such kind, or some entries do not fit."""
    found = architecture_of(params)
    if found.kind not in functions:
        known = f'{found.arch}, not a net of this script; finetune.py takes it'
        raise InputError(f'{path} is ' + (known if found.arch else (
            f'not a net of this script; its first entries are {", ".join(list(params)[:3])}')))
    f, bias = functions[found.kind](found), found.head + '.bias'
    classes = facts.classes_of(f, params, found.head, path)
    if params[bias].shape != (classes,):        # it would be broadcast
        raise InputError(f'{path} is of another architecture: {bias} has the shape '
                         f'{tuple(params[bias].shape)}, of {classes} classes')
    return f, classes
