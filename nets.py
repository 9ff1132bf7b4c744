"""Nets of any script: from files, by name, with new last layers, with frozen parts; the layers that
fine-tuning looks at."""
import re

import torch

import cifar
import imagenet
import utils
from engine import processes
from methods import gates
from utils import InputError
from weights import facts, folding, store

# ---- from files, and by name --------------------------------------------------------------------


def script_of(params):
    """The module whose net it is: cifar or imagenet."""
    return cifar if imagenet.net_like(params)[0] is None else imagenet


def load_net(name):
    """A run, a file of parameters or a known name -> (f, number of classes, params, path), where
    f(inputs, params, mode, base='', taps=None) gives logits and groups. Channels that a run has
    masked are cut."""
    with processes.first_alone():        # it may have to be downloaded
        path = store.locate(name)
    params = gates.removed(store.read(path))
    return *script_of(params).net_of(params, path), params, path


def head_of(params):
    """The name of the last layer."""
    return imagenet.net_like(params)[1] or 'fc'


def arch_of(params):
    """The name of an architecture, as --arch takes it; '' for another one."""
    names = set(params)
    if {'features.1.conv.0.0.weight', 'classifier.6.weight'} & names:
        return 'alexnet' if 'classifier.6.weight' in names else 'mobilenet_v2'
    blocks = imagenet.blocks_of(params)
    if len(blocks) == 3 and 'group0.block0.conv0' in names:
        width = len(params['group0.block0.conv1']) / cifar.WRN_CHANNELS[0]
        return f'wrn-{6 * blocks[0] + 4}-{width:g}'
    deep = any('.conv3' in k for k in names)
    return next((f'resnet{d}' for d, n in imagenet.BLOCKS.items()
                 if n == blocks and deep == (d >= 50)), '')


def new_net(arch, classes):
    """A net of random parameters -> (f, params)."""
    if m := re.fullmatch(r'wrn-(\d+)-(\d+(?:\.\d+)?)', arch):
        return cifar.resnet(int(m[1]), float(m[2]), classes)
    if arch not in imagenet.ARCHS:
        raise InputError(f'--arch {arch}: choose from {", ".join(imagenet.ARCHS)}, '
                         f'wrn-depth-width')
    return imagenet.make_net(arch, 1, classes)


# ---- for fine-tuning -----------------------------------------------------------------------------

def with_new_head(params, head, classes, bottleneck=0, dropout=0.):
    """A net whose last layer gives other classes: random weights of deviation 0.01, zero biases; a
    `bottleneck` of so many channels before it, if that is above zero, with `dropout`, likewise."""
    def layer(ni, no):
        return {'weight': torch.randn(no, ni) * .01, 'bias': torch.zeros(no)}

    old = params.get(head + '.bottleneck.weight', params[head + '.weight'])
    ni, new = old.shape[1], {}
    if bottleneck:
        new[head + '.bottleneck'], ni = utils.linear_params(ni, bottleneck), bottleneck
    if bottleneck and dropout:
        new[head + '.bottleneck.dropout'] = torch.tensor(dropout)
    new[head] = layer(ni, classes)
    body = {k: v for k, v in params.items() if not k.startswith(head + '.')}
    return {**body, **utils.flatten(new)}


FROZEN = ('first_group', 'bn', 'bn_statistics', 'body')


def freeze(f, params, what, head):
    """The net of which parts are left as they are, with its gradients' flags set. What is named is
    one or more of FROZEN."""
    norms = [b for b in folding.normalisations(f, params) if b + '.running_mean' in params]
    of_norms = {f'{b}.{k}' for b in norms for k in ('weight', 'bias')}
    frozen = set(facts.first_group(f, params)) if 'first_group' in what else set()
    frozen |= of_norms if 'bn' in what else set()
    frozen |= {k for k in params if not k.startswith(head + '.')} if 'body' in what else set()
    fixed = [b for b in norms if f'{b}.weight' in frozen or {'bn', 'bn_statistics'} & set(what)]
    params = utils.fix_statistics(params, fixed)
    utils.set_requires_grad_except_bn_(params)
    for k in frozen & set(params):
        params[k].requires_grad_(False)
    return params


def over_crops(f):
    """The net that gives the mean of the logits of several crops, (B, V, 3, H, W)."""
    def net(inputs, params, mode, base='', taps=None):
        if inputs.ndim == 4:
            return f(inputs, params, mode, base, taps)
        logits, groups = f(inputs.flatten(0, 1), params, mode, base, taps)
        return logits.unflatten(0, inputs.shape[:2]).mean(1), groups

    return net


# ---- the layers that fine-tuning looks at -------------------------------------------------------

def last_convolutions(names, blocks, last):
    """Of each group of a residual net."""
    return [names.format(j, n - 1) + f'.conv{last}' for j, n in enumerate(blocks)]


# The layers whose outputs are compared in fine-tuning, the last convolution of each stage; of two
# names of one layer, a net has one.
TAPPED = {
    'resnet50': ['layer1.2.conv3', 'layer2.3.conv3', 'layer3.5.conv3', 'layer4.2.conv3'],
    'resnet101': ['layer1.2.conv3', 'layer2.3.conv3', 'layer3.22.conv3', 'layer4.2.conv3'],
    'mobilenet_v2': [f'features.{i}.conv.2' for i in (5, 9, 13, 17)],
    'alexnet': [f'features.{i}' for i in (0, 3, 8, 10)],
    **{f'resnet{depth}': [
        *last_convolutions('group{}.block{}', imagenet.BLOCKS[depth], 1),
        *last_convolutions('layer{}.{}', [0, *imagenet.BLOCKS[depth]], 2)[1:]]
       for depth in (18, 34)},
    'wrn': [f'group{j}.block{i}.conv1' for j in range(3) for i in range(20)],
}


def there(params, keys):
    """Those of the layers that a net has."""
    return [k for k in keys if k in params or k + '.weight' in params]


def stages(params):
    """The names of a net's last convolutions of each stage."""
    arch = arch_of(params).split('-')[0]
    if arch not in TAPPED:
        raise InputError(f'of this net no layers are known that could be compared; those of '
                         f'{", ".join(TAPPED)} are')
    found = there(params, TAPPED[arch])
    return list({k.split('.')[0]: k for k in found}.values()) if arch == 'wrn' else found


def last_layers(params):
    """The names of a net's linear layers, the last one at the end."""
    head = head_of(params)
    first = [f'classifier.{i}' for i in (1, 4)] if head == 'classifier.6' else []
    return there(params, (*first, head + '.bottleneck', head))
