"""Nets of any script: from files, by name, with a new head, with frozen parts; the layers that
fine-tuning looks at."""
import re

import torch

import cifar
import imagenet
import utils
from data import cifar_sets
from methods import teaching
from utils import InputError
from weights import architecture, facts, folding
from weights.architecture import architecture_of

# ---- from files, and by name --------------------------------------------------------------------

FUNCTIONS = {**imagenet.FUNCTIONS, **cifar.FUNCTIONS}
PIXELS = {**imagenet.PIXELS, 'cifar': (cifar_sets.MEAN, cifar_sets.STD)}


def net_of(params, path):
    """The net whose parameters these are -> (f, number of classes); `path` is for messages."""
    return architecture.net_of(FUNCTIONS, params, path)


def load_net(name, any_head=False):
    """A run, a file of parameters or a known name -> (f, number of classes, params, path), as
    `teaching.load_net`."""
    return teaching.load_net(name, FUNCTIONS, any_head)


def new_net(arch, classes):
    """Make a net of random parameters by its name -> (f, params). InputError for unknown names."""
    if m := re.fullmatch(r'(wrn|cifar_resnet)-(\d+)-(\d+(?:\.\d+)?)', arch):
        make = cifar.resnet if m[1] == 'wrn' else cifar.cifar_resnet
        return make(int(m[2]), float(m[3]), classes)
    if arch not in imagenet.ARCHS:
        raise InputError(f'--arch {arch}: choose from {", ".join(imagenet.ARCHS)}, '
                         f'wrn-depth-width, cifar_resnet-depth-width')
    return imagenet.make_net(arch, 1, classes)


# ---- for fine-tuning -----------------------------------------------------------------------------

def with_new_head(params, head, classes, bottleneck=0, dropout=0.):
    """Replace the head of a net: random weights of deviation 0.01 and zero biases for so many
    classes, behind a `bottleneck` of so many channels with `dropout`, if those are above zero."""
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
    """Return the net with `requires_grad` set for training, but not for the parts `what`, a list of
    names in FROZEN."""
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

def stages(params):
    """Return the name of the last convolution of each stage. InputError for nets without stages."""
    found = architecture_of(params).stages
    if not found:
        raise InputError('of this net no layers are known that could be compared; those of '
                         'residual nets, MobileNetV2 and AlexNet are')
    return list(found)


def last_layers(params):
    """Return the names of a net's linear layers, in order; the head's is the last."""
    found = architecture_of(params)
    wide = [found.head + '.bottleneck'] if found.head + '.bottleneck.weight' in params else []
    return [*found.hidden, *wide, found.head]
