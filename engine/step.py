"""One step of training and one of testing, each a function of tensors that it changes in place.

What a step changes (parameters, running statistics, momentum buffers, sums of the epoch) and what
is set from outside (learning rate, weight of the method's loss) are tensors of fixed shape that
stay in place; it keeps no Python state and reads nothing off the device. So the same function runs
as it is on a CPU, is captured as a CUDA graph (graphs.py), and is what bench.py measures.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from system import processes

MOMENTUM = .9
DTYPES = 'float', 'bfloat16', 'double'
PARTS = 16      # scalars of an objective that are added up besides its loss, at most
# what the first sums are
IMAGES, LOSS, RIGHT, RIGHT5, STEPS, FINITE, PARTS_GIVEN = range(7)


class Group(NamedTuple):
    """Entries that are updated alike: by `scale` times the learning rate, with a weight decay."""
    keys: list
    weight_decay: float
    scale: float = 1.


class State(NamedTuple):
    """All that a step needs and changes. objective(params, inputs, targets, mode, weight) -> loss,
    logits (B, K), list of scalars that are logged; `dtype` is one of DTYPES; `nesterov` is
    whether the momentum is Nesterov's."""
    objective: Callable
    params: dict[str, Tensor]
    momenta: dict[str, Tensor]
    groups: list[Group]
    rate: Tensor
    weight: Tensor
    sums: Tensor
    dtype: str
    nesterov: bool = False


# ---- parameters on the device -------------------------------------------------------------------

def parameter_dtype(dtype):
    """Return the torch dtype of parameters and momentum buffers for activations of `dtype`."""
    return torch.float64 if dtype == 'double' else torch.float32


def on_device(params, dtype, device, fixed=False):
    """Copy parameters as a step wants them: to the device, filters in channels_last. Filters
    and matrices that are `fixed` are kept as autocast would make them anew in each step.

    Nothing shares memory with what was given: a net that is trained from a source and that source
    may come from one dict, and the source must not move with the net.
    """
    def place(v):
        low = fixed and dtype == 'bfloat16' and v.ndim > 1
        layout = torch.channels_last if v.ndim == 4 else torch.preserve_format
        placed = v.detach().to(device, torch.bfloat16 if low else parameter_dtype(dtype),
                               copy=True, memory_format=layout)
        return placed.requires_grad_(v.requires_grad and not fixed)

    return {k: place(v) for k, v in params.items()}


def precision(dtype, device):
    """Return the context in which nets are computed: bfloat16 by autocast, or as parameters are."""
    # a cache of cast filters would outlive a graph that it was made in
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == 'bfloat16',
                          cache_enabled=False)


def new_state(objective, params, dtype, weight_decay=0., groups=None, nesterov=False):
    """Make the state before the first step: zero momentum buffers and sums. `params` are on their
    device; those with gradients are one group with this weight decay, if no `groups` are given."""
    learnt = {k: v for k, v in params.items() if v.requires_grad}
    device = next(iter(params.values())).device

    def scalar():
        return torch.zeros((), dtype=parameter_dtype(dtype), device=device)

    return State(objective, params, {k: torch.zeros_like(v) for k, v in learnt.items()},
                 groups or [Group(list(learnt), weight_decay)], scalar(), scalar(),
                 torch.zeros(PARTS_GIVEN + 1 + PARTS, dtype=torch.double, device=device), dtype,
                 nesterov)


def changed_by(state):
    """Return the tensors that `train_step` changes."""
    own = [v for k, v in state.params.items() if not k.startswith('teacher.')]
    return [*own, *state.momenta.values(), state.sums]


# ---- the steps ----------------------------------------------------------------------------------

def train_step(state, inputs, targets):
    """Take a training step: forward, backward, SGD with momentum, sums; inputs (B, 3, H, W),
    targets (B,)."""
    with precision(state.dtype, inputs.device):
        loss, logits, parts = state.objective(state.params, inputs, targets, True, state.weight)
    learnt = {k: state.params[k] for k in state.momenta}
    gradients = torch.autograd.grad(loss, learnt.values(), allow_unused=True)
    update(state, processes.averaged(dict(zip(learnt, gradients, strict=True))))
    add_up(state.sums, loss, logits, targets, parts)


@torch.no_grad()
def test_step(state, inputs, targets):
    """Take a test step: forward in evaluation mode, and sums."""
    with precision(state.dtype, inputs.device):
        loss, logits, _ = state.objective(state.params, inputs, targets, False, state.weight)
    add_up(state.sums, loss, logits, targets, [])


@torch.no_grad()
def logits_of(f, params, inputs, dtype):
    """Compute a net's logits (B, K) of inputs (B, 3, H, W), in evaluation mode."""
    with precision(dtype, inputs.device):
        return f(inputs, params, False)[0]


def test_errors(f, params, images, dtype, device):
    """Test a net (f, params) on a set of images -> [top-1, top-5 error], in percent."""
    right = torch.zeros(2, dtype=torch.long, device=device)
    for inputs, targets in images.batches():
        right += right_answers(logits_of(f, params, inputs, dtype), targets)
    return [100 - 100 * v / images.n for v in processes.total(right).tolist()]


@torch.no_grad()
def update(state, gradients):
    """Update by SGD with momentum, as torch.optim.SGD does: v = 0.9 v + g, then w = w - rate v,
    where g = gradient + decay w; with Nesterov's momentum w = w - rate (g + 0.9 v). What has no
    gradient (None) stays."""
    for keys, decay, scale in state.groups:
        there = [k for k in keys if gradients[k] is not None]
        if not there:
            continue
        w, v, g = ([d[k] for k in there] for d in (state.params, state.momenta, gradients))
        torch._foreach_mul_(v, MOMENTUM)
        torch._foreach_add_(v, g)
        if decay:
            torch._foreach_add_(v, w, alpha=decay)
        moved = v
        if state.nesterov:
            moved = torch._foreach_add(g, v, alpha=MOMENTUM)
            if decay:
                torch._foreach_add_(moved, w, alpha=decay)
        torch._foreach_sub_(w, torch._foreach_mul(moved, state.rate * scale))


@torch.no_grad()
def add_up(sums, loss, logits, targets, parts):
    """Add a batch to what an epoch adds up: images, loss, right answers (of one guess and of five),
    steps, the steps whose losses were all finite so far, number of parts, and the parts."""
    n, one = (torch.full_like(loss, v, dtype=sums.dtype) for v in (len(targets), 1))
    finite = loss.isfinite() & (sums[FINITE] == sums[STEPS])
    new = torch.stack([n, loss * n, *right_answers(logits, targets), one, finite,
                       one * len(parts), *(p * n for p in parts)])
    sums[:len(new)] += new


def right_answers(logits, targets):
    """Count the images whose class is the likeliest, and among the five likeliest, (2,)."""
    best = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
    return torch.stack([best[:, 0].sum(), best.sum()])
