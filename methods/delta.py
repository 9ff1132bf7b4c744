"""DELTA's channel weights: how much the loss grows without a channel.

  Li et al., 'DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional
  Networks', https://arxiv.org/abs/1901.09229
"""
import itertools
import json
import pathlib

import torch
import torch.nn.functional as F
from torch.fx import Interpreter
from torch.fx.experimental.proxy_tensor import make_fx
from tqdm import tqdm

import utils
from engine import step
from system import clock, files, processes
from utils import InputError
from weights import formats
from weights.architecture import weight_of

SOFTENING = 5.      # of the softmax over channels
HEAD_EPOCHS, HEAD_LR, HEAD_DECAY_EPOCHS, HEAD_DECAY = 10, .01, 6, 1e-4
BATCHES, BATCH_SIZE = 4, 32     # of training images, whatever --batch_size is


def train_head(f, params, head, batches, dtype):
    """Train the head alone, for HEAD_EPOCHS, in a copy of the net -> the copy. batches(): inputs
    (B, 3, H, W) and targets (B,) of an epoch. Computed in double if that is `dtype`, else in float.
    """
    def objective(params, inputs, targets, mode, weight):
        logits, _ = f(inputs, params, False)
        return F.cross_entropy(logits, targets), logits, []

    params = {k: v.detach().clone().requires_grad_(k.startswith(head + '.') and
                                                   not utils.is_statistic(k))
              for k, v in params.items()}
    state = step.new_state(objective, params, 'double' if dtype == 'double' else 'float',
                           HEAD_DECAY)
    for epoch in tqdm(range(HEAD_EPOCHS), 'training the head', unit=' epochs', disable=None):
        state.rate.fill_(HEAD_LR * .1 ** (epoch / HEAD_DECAY_EPOCHS))
        for inputs, targets in batches():
            step.train_step(state, inputs, targets)
    return {k: v.detach() for k, v in params.items()}


@torch.no_grad()
def losses_without(f, params, layer, inputs, targets):
    """Compute the cross-entropy (), and what it is without each filter of the convolution `layer`,
    (C,).

    The net is recorded once; what lies before that layer is computed once, the rest C times. (This
    relies on `utils.tap`: no later operation overwrites what was computed before it.)
    """
    def run(x):
        taps = {layer: None}
        logits, _ = f(x, params, False, taps=taps)
        return taps[layer], logits

    graph = make_fx(run)(inputs)
    here, out = next(n for n in graph.graph.nodes if n.op == 'output').args[0]
    whole = Interpreter(graph, garbage_collect_values=False)
    whole.run(inputs)
    before = {k: whole.env[k] for k in itertools.takewhile(lambda k: k is not here,
                                                           graph.graph.nodes)}
    bias, x, losses = params.get(layer + '.bias'), whole.env[here], []
    for c in range(x.shape[1]):
        y = x.clone()
        y[:, c] = 0 if bias is None else bias[c]
        _, logits = Interpreter(graph).run(inputs, initial_env={**before, here: y})
        losses.append(F.cross_entropy(logits, targets))
    return F.cross_entropy(whole.env[out], targets), torch.stack(losses)


def computed(f, params, head, layers, batches, dtype):
    """Compute DELTA's weights, by how much the loss grows without a filter -> {layer: (C,)}, each
    of sum 1.

    f, params: the source with a new head, which is trained first, as by `train_head`.
    """
    print(f'channel weights: the head is trained for {HEAD_EPOCHS} epochs, then the loss is taken '
          f'without each channel of {len(layers)} layers', flush=True)
    params, growth = train_head(f, params, head, batches, dtype), {k: [] for k in layers}
    some = list(itertools.islice(batches(), BATCHES))

    def without_each():
        for (inputs, targets), layer in tqdm(list(itertools.product(some, layers)),
                                             'without each channel', unit=' layers', disable=None):
            base, without = losses_without(f, params, layer, inputs, targets)
            growth[layer].append(without - base)

    taken = clock.seconds(without_each, 1, 0)
    with torch.no_grad():
        whole = clock.seconds(lambda: [f(inputs, params, False) for inputs, _ in some], 1, 0)
    passes = sum(len(v[0]) for v in growth.values())
    print(f'channel weights: {taken:.1f} s; a pass through the whole net for each channel would '
          f'take about {passes * whole:.1f} s')
    return {k: from_growth(torch.stack(v).mean(0)) for k, v in growth.items()}


def from_growth(growth):
    """Return the weights (C,) of channels without which the loss grows by so much (C,): as in the
    published code, the softmax over channels of the growth's z-scores, divided by SOFTENING."""
    scores = (growth - growth.mean()) / growth.std(correction=0).clamp_min(1e-12)
    return (scores / SOFTENING).softmax(0)


def channel_weights(opt, f, params, head, layers, batches, checkpoint):
    """Return DELTA's weights {layer: (C,)}: computed, and left in the run's folder for when it goes
    on, or read from such a folder or a file. InputError without one, or in several processes."""
    made = pathlib.Path(opt.save, 'channel_weights.json')
    path = made if opt.channel_weights == 'compute' else pathlib.Path(opt.channel_weights)
    path = path / made.name if path.is_dir() else path
    if path != made and not path.exists():
        raise InputError(f'--channel_weights {opt.channel_weights}: there is no {path}; give '
                         f'compute, a run that has computed them, or a file')
    if path == made and not (checkpoint and made.exists()):
        if processes.world() > 1:
            raise InputError('--channel_weights compute runs in one process: give its '
                             'channel_weights.json to several')
        found = computed(f, params, head, layers, batches, opt.dtype)
        files.write_whole(made, json.dumps({k: v.tolist() for k, v in found.items()}).encode())
    return read_weights(path, {k: (len(params[weight_of(params, k)]),) for k in layers})


def read_weights(path, expected):
    """Read channel weights from a json file -> {layer: (C,)}. One of the published code is a list
    of the growth of the loss in each layer. InputError, if the file cannot be read, or the shapes
    are not the `expected` ones, {layer: shape}."""
    formats.check_regular(path)
    try:
        found = json.loads(path.read_text())
        if isinstance(found, list):
            found = {k: from_growth(torch.tensor(v, dtype=torch.float)) for k, v in
                     zip(expected, found, strict=True)}
        found = {k: torch.as_tensor(v, dtype=torch.float) for k, v in found.items()}
        shapes = {k: tuple(v.shape) for k, v in found.items()}
        if not all(v.isfinite().all() for v in found.values()):
            raise ValueError('not all of them are finite')
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as e:
        raise InputError(f'cannot read the channel weights {path}: {e}') from None
    if shapes != expected:
        raise InputError(f'{path} holds channel weights of other layers: {shapes}, expected '
                         f'{expected}')
    return found
