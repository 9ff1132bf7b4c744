"""The regularisers of fine-tuning: pure functions of what the source and the target net compute.

  L2-SP: Li, Grandvalet & Davoine, 'Explicit Inductive Bias for Transfer Learning with
  Convolutional Networks', https://arxiv.org/abs/1802.01483
  DELTA: Li et al., 'DELTA: Deep Learning Transfer using Feature Map with Attention for
  Convolutional Networks', https://arxiv.org/abs/1901.09229
  DDC: Tzeng et al., 'Deep Domain Confusion', https://arxiv.org/abs/1412.3474
  DAN: Long et al., 'Learning Transferable Features with Deep Adaptation Networks',
  https://arxiv.org/abs/1502.02791

All are means over the batch. Features are dicts {name of a convolution: its output (B, C, H, W)}.
"""
import collections
import time

import torch
import torch.nn.functional as F
from torch.fx import Interpreter
from torch.fx.experimental.proxy_tensor import make_fx

import utils
from engine import step
from methods.attentive import channel_attention, entropy, spatial_attention

# ---- distances to the source --------------------------------------------------------------------


def feature_distance(source, target, weights=None, positions='mean', normalize=False):
    """Half the squared distance of feature maps, added up over layers.

    weights: {layer: (C,), (B, C) or (B, H, W)}, of which the squared differences of channels or
    positions are multiplied; None: 1. positions: 'mean' or 'sum' over H and W. normalize: each
    channel's map is divided by its norm first.
    """
    total = 0.
    for layer, x in source.items():
        y, area = target[layer], x[0, 0].numel()
        dtype = torch.promote_types(x.dtype, torch.float32)
        if normalize:
            x, y = (v.to(dtype) / (torch.linalg.vector_norm(v, dim=(2, 3), keepdim=True,
                                                            dtype=dtype) + 1e-6) for v in (x, y))
        over = 1 if weights is not None and weights[layer].ndim == 3 else (2, 3)
        squares = torch.linalg.vector_norm(y - x, dim=over, dtype=dtype).square()
        if weights is not None:
            squares = squares * weights[layer].to(dtype)
        distance = squares.sum() / len(x) / 2
        total = total + (distance / area if positions == 'mean' else distance)
    return total


def l2_distance(params, start):
    """Half the squared distance of parameters to where they started, both {name: tensor} of the
    same names (L2-SP, less the decay of the new layer)."""
    return sum((params[k] - v).square().sum() for k, v in start.items()) / 2


# ---- distances of two domains -------------------------------------------------------------------

def linear_mmd(x, y):
    """Squared distance of the means of x and y, (B, D) each (DDC's loss, which squares it)."""
    x, y = map(utils.at_least_float, (x, y))
    return (x.mean(0) - y.mean(0)).square().sum()


BANDWIDTHS = tuple(2. ** k for k in range(-3, 2))


ESTIMATORS = 'biased', 'unbiased', 'linear'


def multi_kernel_mmd(x, y, estimator='biased'):
    """Squared maximum mean discrepancy of x and y, (B, D) each, with the sum of five Gaussian
    kernels of 1/8 to 2 times the mean squared distance of two samples (DAN).

    estimator: 'biased', of all pairs, each sample with itself too, so that it is zero for equal
    samples (DeepDA's); 'unbiased', without those of a sample with itself; 'linear', of neighbours
    in the batch alone (the paper has disjoint pairs of them). The latter two may be negative; they
    are those of Transfer-Learning-Library, which adds a constant, 2 / (B - 1).
    """
    z, n = torch.cat([x, y]), len(x)
    squares = torch.cdist(z, z, compute_mode='donot_use_mm_for_euclid_dist').square()
    # Transfer-Learning-Library's mean counts the zeros of a sample with itself
    pairs = len(z) * (len(z) - (estimator == 'biased'))
    mean = (squares.detach().sum() / pairs).clamp_min(1e-12)
    kernels = sum(torch.exp(-squares / (2 * k * mean)) for k in BANDWIDTHS)
    xx, yy, xy = kernels[:n, :n], kernels[n:, n:], kernels[:n, n:]
    if estimator == 'linear':
        i = torch.arange(n, device=x.device)
        j = i.roll(-1)
        return (xx[i, j] + yy[i, j] - xy[i, j] - xy[j, i]).mean()
    if estimator == 'unbiased':
        within = sum(k.sum() - k.diagonal().sum() for k in (xx, yy)) / (n * max(1, n - 1))
        return within - 2 * xy.mean()
    return xx.mean() + yy.mean() - 2 * xy.mean()


# ---- the channel weights of DELTA ---------------------------------------------------------------

SOFTENING = 5.      # of the softmax over channels
HEAD_EPOCHS, HEAD_LR, HEAD_DECAY_EPOCHS, HEAD_DECAY = 10, .01, 6, 1e-4
BATCHES, BATCH_SIZE = 4, 32     # of training images, whatever --batch_size is


def train_head(f, params, head, batches, dtype):
    """The last layer alone trained for some epochs, in a copy of `params`, which is returned.
    batches(): inputs (B, 3, H, W) and targets (B,) of an epoch. Computed in double if that is
    `dtype`, else in float."""
    def objective(params, inputs, targets, mode, weight):
        logits, _ = f(inputs, params, False)
        return F.cross_entropy(logits, targets), logits, []

    params = {k: v.detach().clone().requires_grad_(k.startswith(head + '.') and
                                                   not utils.is_statistic(k))
              for k, v in params.items()}
    state = step.new_state(objective, params, 'double' if dtype == 'double' else 'float',
                           HEAD_DECAY)
    for epoch in range(HEAD_EPOCHS):
        state.rate.fill_(HEAD_LR * .1 ** (epoch / HEAD_DECAY_EPOCHS))
        for inputs, targets in batches():
            step.train_step(state, inputs, targets)
    return {k: v.detach() for k, v in params.items()}


@torch.no_grad()
def losses_without(f, params, layer, inputs, targets):
    """Cross-entropy (), and what it is without each filter of the convolution `layer`, (C,).

    The net is recorded once; what lies before that layer is computed once, the rest C times. (That
    rests on `utils.tap`: no later operation overwrites what was computed before it.)
    """
    def run(x):
        taps = {layer: None}
        logits, _ = f(x, params, False, taps=taps)
        return taps[layer], logits

    graph = make_fx(run)(inputs)
    here, out = next(n for n in graph.graph.nodes if n.op == 'output').args[0]
    whole = Interpreter(graph, garbage_collect_values=False)
    whole.run(inputs)
    before = {}
    for node in graph.graph.nodes:
        before[node] = whole.env[node]
        if node is here:
            break
    bias, x, losses = params.get(layer + '.bias'), whole.env[here], []
    for c in range(x.shape[1]):
        y = x.clone()
        y[:, c] = 0 if bias is None else bias[c]
        _, logits = Interpreter(graph).run(inputs, initial_env={**before, here: y})
        losses.append(F.cross_entropy(logits, targets))
    return F.cross_entropy(whole.env[out], targets), torch.stack(losses)


def channel_weights(f, params, head, layers, batches, dtype):
    """DELTA's weights: how much the loss grows without a filter -> {layer: (C,)}, summing to 1, and
    how many times as fast that was as a pass through the whole net for each filter.

    f, params: the source with a new last layer `head`, which is trained first. As in the published
    code, the weights are the softmax of the growth's z-scores over a layer's channels.
    """
    params, growth, start, passes = train_head(f, params, head, batches, dtype), {}, None, 0.
    for i, (inputs, targets) in enumerate(batches()):
        if i == BATCHES:
            break
        start = start or time.perf_counter()
        begun = time.perf_counter()
        with torch.no_grad():
            f(inputs, params, False)
        whole = time.perf_counter() - begun
        for layer in layers:
            base, without = losses_without(f, params, layer, inputs, targets)
            growth.setdefault(layer, []).append(without - base)
            passes += whole * len(without)
    taken = time.perf_counter() - start
    return {k: from_growth(torch.stack(v).mean(0)) for k, v in growth.items()}, passes / taken


def from_growth(growth):
    """The weights (C,) of channels without which the loss grows by so much (C,)."""
    scores = (growth - growth.mean()) / growth.std(correction=0).clamp_min(1e-12)
    return (scores / SOFTENING).softmax(0)


# ---- methods ------------------------------------------------------------------------------------

# What a net computes: logits (B, K), in float; the groups' outputs; the tapped layers' {name: x}.
Outputs = collections.namedtuple('Outputs', 'logits groups taps')

# What --alpha weighs. A method of your own is one more such function, and its line in METHODS:
# (options, outputs of the source or teacher, outputs of the target net, parameters, labels (B,))
# -> scalars, of which the first one is the regulariser, the rest is for the log. `params` holds the
# target's entries under 'student.', the source's under 'teacher.', attention's under 'attention.'.


def l2_sp(opt, source, target, params, labels):
    """The source's parameters are those under 'teacher.', without its last layer."""
    start = utils.without_prefix(params, 'teacher.')
    return [l2_distance(utils.without_prefix(params, 'student.'), start)]


def features(opt, source, target, weights=None):
    return feature_distance(source.taps, target.taps, weights, opt.positions,
                            opt.normalize_features)


def feature_map(opt, source, target, params, labels):
    return [features(opt, source, target)]


def delta(opt, source, target, params, labels):
    channels = utils.without_prefix(params, 'teacher.channel_weights.')
    return [features(opt, source, target, {k: v * len(v) for k, v in channels.items()})]


def attentive(attention, factor):
    """A regulariser whose weights are learned `attention`, times `factor`(attention)."""
    def method(opt, source, target, params, labels):
        found = {k: attention(x, params, f'attention.{k}') for k, x in source.taps.items()}
        weights = {k: factor(v) for k, v in found.items()}
        return [features(opt, source, target, weights), *map(entropy, found.values())]

    return method


def attention(opt, source, target, params, labels):
    """AT, Eq. 2 of the attention transfer paper."""
    return [sum(utils.at_loss(target.groups[i], source.groups[i]) for i in opt.at_groups)]


def distillation(opt, source, target, params, labels):
    """What makes alpha T² KL + (1 - alpha) CE of the cross-entropy that it is added to."""
    kd = utils.distillation(target.logits, source.logits, labels, opt.temperature, 1.)
    return [kd - F.cross_entropy(target.logits, labels)]


# Of two domains the first half of the batch is the source, with labels, the rest the target.

def ddc(opt, source, target, params, labels):
    """The one tapped layer is what enters the last layer."""
    n, (x,) = len(labels), target.taps.values()
    return [linear_mmd(x[:n], x[n:])]


def dan(opt, source, target, params, labels):
    """Of the tapped layers all but the last one are compared after ReLU."""
    n, (*hidden, last) = len(labels), map(utils.at_least_float, target.taps.values())
    return [sum(multi_kernel_mmd(x[:n], x[n:], opt.mmd) for x in (*map(F.relu, hidden), last))]


# name -> regulariser; default alpha, beta and weight decay; default --positions; what it compares
# with: the source, its features, a fine-tuned teacher, or a target domain
Method = collections.namedtuple('Method', 'regulariser alpha beta weight_decay positions needs')
METHODS = {
    'l2': Method(None, 0., 1e-4, 1e-4, '', ''),
    'l2_sp': Method(l2_sp, .1, .01, 0., '', 'parameters'),
    'feature_map': Method(feature_map, .64, .01, 0., 'mean', 'features'),
    'delta': Method(delta, .64, .01, 0., 'mean', 'features'),
    # sum of attention times squared distance, without the half
    'afd': Method(attentive(channel_attention, lambda a: 2 * a), .01, 0., 0., 'sum', 'features'),
    'ast': Method(attentive(spatial_attention, lambda a: (a * a[0].numel()).square()),
                  .1, .01, 0., 'sum', 'features'),
    'act': Method(attentive(channel_attention, lambda a: a * a.shape[1]),
                  .15, .01, 0., 'sum', 'features'),
    'at': Method(attention, 1e3, 1e-4, 1e-4, '', 'teacher'),
    'kd': Method(distillation, .9, 1e-4, 1e-4, '', 'teacher'),
    'ddc': Method(ddc, .25, 5e-4, 5e-4, '', 'target'),
    'dan': Method(dan, 1., 5e-4, 5e-4, '', 'target'),
}


def make_objective(opt, f, f_t, layers):
    """The loss of fine-tuning as a pure function for `step.State`: cross-entropy + alpha times
    the method's regulariser. On test images it is the cross-entropy."""
    regulariser = METHODS[opt.method].regulariser

    def outputs(f, inputs, params, mode, base):
        taps = {base + k: None for k in layers} if layers else None
        logits, groups = f(inputs, params, mode, base, taps)
        return Outputs(utils.at_least_float(logits), groups,
                       utils.without_prefix(taps or {}, base))

    def objective(params, inputs, targets, mode, alpha):
        if not mode or regulariser is None:
            logits = utils.at_least_float(f(inputs, params, mode, 'student.')[0])
            return F.cross_entropy(logits, targets), logits, []
        source = None
        if f_t is not None:
            with torch.no_grad():
                source = outputs(f_t, inputs, params, False, 'teacher.')
        target = outputs(f, inputs, params, mode, 'student.')
        logits = target.logits[:len(targets)]       # the rest has no labels
        parts = regulariser(opt, source, target, params, targets)
        return F.cross_entropy(logits, targets) + alpha * parts[0], logits, parts

    return objective
