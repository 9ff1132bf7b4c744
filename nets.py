"""Nets of any script: from files, and by name."""
import re

import cifar
import imagenet
from methods import teaching
from utils import InputError
from weights import architecture

FUNCTIONS = {**imagenet.FUNCTIONS, **cifar.FUNCTIONS}


def net_of(params, path):
    """Make the function of the net with these parameters -> (f, number of classes). InputError,
    which names `path`, for other nets."""
    return architecture.net_of(FUNCTIONS, params, path)


def load_net(name, any_head=False):
    """Load the net of a run, a file of parameters or a known name -> (f, number of classes, params,
    path), as `teaching.load_net`."""
    return teaching.load_net(name, FUNCTIONS, any_head)


def new_net(arch, classes):
    """Make a net of random parameters by its name -> (f, params). InputError for unknown names."""
    if m := re.fullmatch(r'(wrn|cifar_resnet)-(\d+)-(\d+(?:\.\d+)?)', arch):
        make = cifar.resnet if m[1] == 'wrn' else cifar.cifar_resnet
        try:
            return make(int(m[2]), float(m[3]), classes)
        except InputError as e:
            raise InputError(f'--arch {arch}: {e}') from None
    if arch not in imagenet.ARCHS:
        raise InputError(f'--arch {arch}: choose from {", ".join(imagenet.ARCHS)}, '
                         f'wrn-depth-width, cifar_resnet-depth-width')
    return imagenet.make_net(arch, 1, classes)


def over_crops(f):
    """Make the function of a net that averages its logits over V crops, (B, V, 3, H, W)."""
    def net(inputs, params, mode, base='', taps=None):
        if inputs.ndim == 4:
            return f(inputs, params, mode, base, taps)
        logits, groups = f(inputs.flatten(0, 1), params, mode, base, taps)
        return logits.unflatten(0, inputs.shape[:2]).mean(1), groups

    return net
