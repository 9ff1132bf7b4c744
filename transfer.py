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
import math
import time

import torch
import torch.nn.functional as F
from torch.fx import Interpreter
from torch.fx.experimental.proxy_tensor import make_fx

# ---- distances to the source --------------------------------------------------------------------


def feature_map(source, target, weights=None, positions='mean'):
    """Half the squared distance of feature maps, added up over layers: of DELTA with `weights`, of
    the plain feature map regulariser without.

    weights: {layer: (C,) or (B, C)}, one for each channel, which sum to 1: their multiples by C are
    what counts, so that uniform ones are the same as none. positions: 'mean' or 'sum' over H and W.
    """
    total = 0.
    for layer, x in source.items():
        y = target[layer]
        dtype = torch.promote_types(x.dtype, torch.float32)
        distances = torch.linalg.vector_norm(y - x, dim=(2, 3), dtype=dtype).square()
        if weights is not None:
            distances = distances * weights[layer].to(dtype) * x.shape[1]
        distance = distances.sum(1).mean() / 2
        total = total + (distance / x[0, 0].numel() if positions == 'mean' else distance)
    return total


def l2_sp(params, start):
    """Half the squared distance of parameters to where they started, both {name: tensor} of the
    same names (L2-SP, less the decay of the new layer)."""
    return sum((params[k] - v).square().sum() for k, v in start.items()) / 2


# ---- distances of two domains -------------------------------------------------------------------

def linear_mmd(x, y):
    """Squared distance of the means of x and y, (B, D) each (DDC's loss, which squares it)."""
    return (x.mean(0) - y.mean(0)).square().sum()


BANDWIDTHS = tuple(2. ** k for k in range(-3, 2))


def multi_kernel_mmd(x, y):
    """Squared maximum mean discrepancy of x and y, (B, D) each, with the sum of five Gaussian
    kernels of 1/8 to 2 times the mean squared distance of two samples (DAN; of all pairs, each
    sample with itself too, so that it is zero for equal samples)."""
    z = torch.cat([x, y])
    squares = torch.cdist(z, z, compute_mode='donot_use_mm_for_euclid_dist').square()
    mean = (squares.detach().sum() / (len(z) * (len(z) - 1))).clamp_min(1e-12)
    kernels = sum(torch.exp(-squares / (2 * k * mean)) for k in BANDWIDTHS)
    n = len(x)
    return kernels[:n, :n].mean() + kernels[n:, n:].mean() - 2 * kernels[:n, n:].mean()


# ---- the channel weights of DELTA ---------------------------------------------------------------

SOFTENING = 5.      # of the softmax over channels
HEAD_EPOCHS, HEAD_LR, HEAD_DECAY, BATCHES = 10, .01, 1e-4, 4


def train_head(f, params, head, batches):
    """The last layer alone trained for some epochs, in a copy of `params`, which is returned.
    batches(): inputs (B, 3, H, W) and targets (B,) of an epoch."""
    params = {k: v.detach().clone() if k.startswith(head + '.') else v.detach()
              for k, v in params.items()}
    layer = [v.requires_grad_() for k, v in params.items() if k.startswith(head + '.')]
    optimizer = torch.optim.SGD(layer, HEAD_LR, .9, weight_decay=HEAD_DECAY)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, math.exp(math.log(.1) / 6))
    for _ in range(HEAD_EPOCHS):
        for inputs, targets in batches():
            optimizer.zero_grad()
            F.cross_entropy(f(inputs, params, False)[0], targets).backward()
            optimizer.step()
        schedule.step()
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


def channel_weights(f, params, head, layers, batches):
    """DELTA's weights: how much the loss grows without a filter -> {layer: (C,)}, summing to 1, and
    how many times as fast that was as a pass through the whole net for each filter.

    f, params: the source with a new last layer `head`, which is trained first. As in the published
    code, the weights are the softmax of the growth's z-scores over a layer's channels.
    """
    params, growth, start, passes = train_head(f, params, head, batches), {}, None, 0.
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
