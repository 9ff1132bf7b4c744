"""Facts about a net (f, params), found by running it on tensors with shapes but without values."""
import collections

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from system import clock
from utils import InputError, is_statistic


class Noted(collections.UserDict):
    """Notes which entries of a dict are used."""

    def __init__(self, entries):
        super().__init__(entries)
        self.used = set()

    def __getitem__(self, key):
        self.used.add(key)
        return super().__getitem__(key)


def on_meta(params, size=64):
    """Make an image (1, 3, size, size) and copies of parameters without values, on device meta."""
    dtype = next(iter(params.values())).dtype
    return (torch.empty(1, 3, size, size, dtype=dtype, device='meta'),
            {k: v.detach().to('meta') for k, v in params.items()})


def classes_of(f, params, head, path):
    """Return the number of classes of a net, whose last layer is called `head`. InputError, if its
    entries do not fit together."""
    image, meta = on_meta(params)
    meta = Noted(meta)
    try:
        logits, _ = f(image, meta, False)
    except KeyError as e:
        if e.args[0] == head + '.weight':
            raise InputError(f'{path} is a net without its head, {e}: finetune.py can start from '
                             f'it (--source), and gives it a new one') from None
        raise InputError(f'{path} is of another architecture: it has no entry {e}') from None
    except (RuntimeError, IndexError, ZeroDivisionError) as e:
        raise InputError(f'{path} is of another architecture: its shapes do not fit together '
                         f'({str(e).splitlines()[0]})') from None
    unused = [k for k in params if k not in meta.used]
    if unused:
        raise InputError(f'{path} is of another architecture: {len(unused)} of its entries have no '
                         f'place here, the first are {", ".join(unused[:3])}')
    return logits.shape[1]


def count_groups(f, params, size, name):
    """Return the number of groups whose outputs a net gives. InputError, which calls the net
    `name`, if images of size x size pixels are too small for it."""
    try:
        return len(f(*on_meta(params, size), False)[1])
    except RuntimeError as e:
        raise InputError(f'{size}x{size} pixels are too few for {name} ({str(e).splitlines()[0]}): '
                         f'give a larger --size') from None


class Draws(TorchDispatchMode):
    """Notes whether an operation draws random numbers."""
    seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **kwargs or {})


def is_random(f, params, size, batch_size=2):
    """Return whether a net draws random numbers in training, as dropout does. InputError, if such a
    batch has too few values for its batch normalisation."""
    image, params = on_meta(params, size)
    with torch.no_grad(), Draws() as found:
        f(image.expand(batch_size, -1, -1, -1), params, True)
    return found.seen


def multiply_adds(f, params, size):
    """Count multiply-adds of convolutions and linear layers for an image of size x size pixels."""
    return clock.flop(lambda: f(*on_meta(params, size), False)) // 2


def size_of(f, params, size):
    """Count a net's parameters, and its `multiply_adds` for an image of size x size pixels."""
    count = sum(v.numel() for k, v in params.items() if not is_statistic(k))
    return count, multiply_adds(f, params, size)


def first_group(f, params):
    """Return the keys of the entries that the output of a net's first group depends on."""
    image, meta = on_meta(params)
    learnt = {k: v.requires_grad_() for k, v in meta.items() if 'running_' not in k}
    g0 = f(image, {**meta, **learnt}, False)[1][0]
    found = torch.autograd.grad(g0.sum(), learnt.values(), allow_unused=True)
    return [k for k, grad in zip(learnt, found, strict=True) if grad is not None]
