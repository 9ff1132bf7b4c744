"""Losses between two domains: the first half of a batch is the source, with labels.

  DDC: Tzeng et al., 'Deep Domain Confusion', https://arxiv.org/abs/1412.3474
  DAN: Long et al., 'Learning Transferable Features with Deep Adaptation Networks',
  https://arxiv.org/abs/1502.02791
"""
import torch
import torch.nn.functional as F

import utils

BANDWIDTHS = tuple(2. ** k for k in range(-3, 2))
ESTIMATORS = 'biased', 'unbiased', 'linear'


def linear_mmd(x, y):
    """Compute DDC's loss: the squared distance between the means of x and y, (B, D) each -> ()."""
    x, y = map(utils.at_least_float, (x, y))
    return (x.mean(0) - y.mean(0)).square().sum()


def multi_kernel_mmd(x, y, estimator='biased'):
    """Compute DAN's loss: the squared maximum mean discrepancy of x and y, (B, D) each, with the
    sum of five Gaussian kernels of 1/8 to 2 times the mean squared distance of two samples -> ().

    estimator: 'biased' takes all pairs, and each sample with itself, so that it is zero for equal
    samples (as DeepDA); 'unbiased' leaves out each sample with itself; 'linear' takes neighbours in
    the batch alone (the paper: disjoint pairs of them). The last two may be negative; they are
    those of Transfer-Learning-Library, which adds a constant, 2 / (B - 1).
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


# ---- methods ------------------------------------------------------------------------------------

def ddc(batch):
    """Return DDC's loss: `linear_mmd` of what enters the head, the one layer that is tapped."""
    n, (x,) = len(batch.labels), batch.student.taps.values()
    return [linear_mmd(x[:n], x[n:])]


def dan(batch):
    """Return DAN's loss: `multi_kernel_mmd` summed over the layers, all but the last after ReLU."""
    n, (*hidden, last) = len(batch.labels), map(utils.at_least_float, batch.student.taps.values())
    return [sum(multi_kernel_mmd(x[:n], x[n:], batch.opt.mmd)
                for x in (*map(F.relu, hidden), last))]
