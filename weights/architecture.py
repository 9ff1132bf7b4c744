"""Which net a dict of parameters is: the one place where that is told from its entries."""
import collections
import re
from typing import NamedTuple

import utils
from utils import InputError
from weights import facts


class Names(NamedTuple):
    """How a residual net calls its entries; normalisations follow by utils.bn_of."""
    stem: str           # the first convolution
    block: str          # block i of group j, both from 0
    first: int          # what convolutions, and torchvision's groups, are counted from
    projection: str


PUBLISHED = Names('conv0', 'group{}.block{}', 0, 'convdim')
ZOO = PUBLISHED._replace(projection='conv_dim')     # functional-zoo's exports
TORCHVISION = Names('conv1', 'layer{}.{}', 1, 'downsample.0')

# blocks in each group of the ResNets that have a name
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXTRA_LAYERS = {'wrn': 4, 'cifar_resnet': 2}        # CIFAR's residual nets have 6n + these


class Channels(NamedTuple):
    """Channels between layers, which nothing else reads or adds to: they can be pruned."""
    makers: list        # the convolutions whose outputs they are
    readers: list       # the convolutions or linear layers whose inputs they are
    norms: list         # the normalisation of each maker, which works on them


class Architecture(NamedTuple):
    """What the entries tell of a net. That of an unknown one has no kind."""
    kind: str = ''              # which function computes it
    arch: str = ''              # its name as --arch takes it; '' for others
    blocks: tuple = ()          # in each group of a residual net
    names: Names | None = None  # of a residual net's entries
    hidden: tuple = ()          # the linear layers before the head
    head: str = 'fc'            # the last linear layer
    stages: tuple = ()          # the last convolution of each, which fine-tuning compares
    channels: dict = {}         # {the first of their makers: Channels}
    size: int = 224             # of the images that it is for, in pixels
    pixels: str = 'torchvision'     # their normalisation, a key of nets.PIXELS


def architecture_of(params):
    """Recognise the net with these entries, by their names and shapes alone -> its `Architecture`.
    Whether all entries fit into such a net is not looked at: `net_of` does that."""
    if 'features.1.conv.0.0.weight' in params:
        found = Architecture('mobilenet_v2', 'mobilenet_v2', head='classifier.1',
                             stages=tuple(f'features.{i}.conv.2' for i in (5, 9, 13, 17)))
    elif 'features.0.weight' in params and 'classifier.4.weight' in params:
        found = Architecture('alexnet', 'alexnet', hidden=('classifier.1', 'classifier.4'),
                             head='classifier.6',
                             stages=tuple(f'features.{i}' for i in (0, 3, 8, 10)))
        second = params.get('features.3.weight')
        if second is not None and second.shape[1:2] == (48,):       # it has two groups
            found = found._replace(kind='caffenet', size=227, pixels='caffe')
    elif 'group0.layer0.conv' in params:
        found = Architecture('nin', size=32, pixels='cifar')
    else:
        found = residual_of(params)
    return found._replace(channels=channels_of(params, found.kind))


def residual_of(params):
    """Recognise a residual net -> its `Architecture` without the channels; an unknown one of other
    nets."""
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
        return Architecture()       # such as a ResNet-18 for CIFAR, whose strides are others
    deep = any(f'.conv{names.first + 2}' in k for k in params)
    last = f'.conv{names.first + 1 + deep}'
    stages = tuple(names.block.format(j + names.first, n - 1) + last
                   for j, n in enumerate(blocks))
    arch = next((f'resnet{d}' for d, n in BLOCKS.items() if n == blocks and deep == (d >= 50)), '')
    filters = params.get(weight_of(params, stages[0]))
    if kind in EXTRA_LAYERS and len(set(blocks)) == 1 and filters is not None and filters.ndim == 4:
        arch = f'{kind}-{6 * blocks[0] + EXTRA_LAYERS[kind]}-{len(filters) / 16:g}'
    return Architecture(kind, arch, blocks, names, stages=stages, **own)


def weight_of(params, layer):
    """The key of a layer's filters or matrix."""
    return layer if layer in params else layer + '.weight'


def convolutions(params):
    """The names of the convolutions of a net, as `utils.conv2d` takes them."""
    return [k.removesuffix('.weight') for k, v in params.items() if v.ndim == 4]


def channels_of(params, kind):
    """Find the channels that can be pruned: {convolution: Channels}.

    Those of all convolutions of a residual block but its last (residual sums keep their width);
    MobileNetV2's expanded ones, which a depthwise convolution hands on, but those of its first
    block, which is not expanded, and those before its head. None of other nets.
    """
    convs, sets = dict.fromkeys(convolutions(params)), {}
    for conv in convs:
        block, hidden = re.fullmatch(r'(.+\.conv)(\d)', conv), conv.removesuffix('.0.0')
        following = f'{block[1]}{int(block[2]) + 1}' if block else ''
        if kind and following in convs:
            # in nets of pre-activation its name is that of one in front of the next convolution
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
    """Make the function of the net whose parameters these are -> (f, number of classes).

    functions: {kind: function of an `Architecture` that gives f}; `path` is for the message of an
    InputError, if it is none of these kinds, or some entries do not fit.
    """
    found = architecture_of(params)
    if found.kind not in functions:
        raise InputError(f'{path} is {found.arch and found.arch + ", "}no net of this script; its '
                         f'first entries are {", ".join(list(params)[:3])}')
    f, bias = functions[found.kind](found), found.head + '.bias'
    classes = facts.classes_of(f, params, path)
    if params[bias].shape != (classes,):        # it would be broadcast
        raise InputError(f'{path} is of another architecture: {bias} has the shape '
                         f'{tuple(params[bias].shape)}, of {classes} classes')
    return f, classes
