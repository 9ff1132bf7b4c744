"""Arrays -> batches on the device. Images stay uint8 until they are there; the augmentation of a
whole batch is one gather."""
import numpy as np
import torch

from utils import InputError


def pad_reflect(images, pad):
    """(N, H, W, 3) -> (N, H+2p, W+2p, 3), mirrored without repeating the edge."""
    if pad >= min(images.shape[1:3]):
        raise InputError(f'--randomcrop_pad {pad} is too large for images of '
                         f'{images.shape[1]}x{images.shape[2]} pixels')
    return np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='reflect')


def crop_flip(padded, index, top, left, flip, height, width):
    """The images `index` of `padded` (N, H', W', 3), each cropped to (height, width) at its own
    corner (top, left) and mirrored where `flip`: (B, height, width, 3)."""
    rows = top[:, None] + torch.arange(height, device=padded.device)
    cols = torch.arange(width, device=padded.device)
    cols = left[:, None] + torch.where(flip[:, None], width - 1 - cols, cols)
    return padded[index[:, None, None], rows[:, :, None], cols[:, None, :]]


def normalise(images, stats):
    """uint8 (B, H, W, 3) and [mean, deviation] (2, 3) -> (B, 3, H, W) in channels_last memory
    format, of the statistics' dtype."""
    return ((images.to(stats.dtype) - stats[0]) / stats[1]).permute(0, 3, 1, 2)


def epoch_batches(images, labels, batch_size, mean, std, dtype=torch.float32, pad=0,
                  shuffle=False):
    """(N, function that gives one epoch's batches: inputs `dtype` (B, 3, H, W), targets (B,)).

    images: uint8 (N, H, W, 3) and labels: int64 (N,), tensors on the device; the last batch may be
    smaller. With `shuffle`, images come in random order, mirrored with probability 1/2 and, for
    pad > 0 (images then have that many pixels around them), cropped at random. All this is drawn
    once per epoch from torch's CPU generator, so that it does not depend on the device.
    """
    stats = torch.tensor([mean, std], dtype=dtype, device=images.device)
    n, height, width = len(images), images.shape[1] - 2 * pad, images.shape[2] - 2 * pad

    def epoch():
        if not shuffle:
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                yield normalise(x, stats), y
            return
        draws = torch.stack([torch.randperm(n), *torch.randint(2 * pad + 1, (2, n)),
                             torch.randint(2, (n,))]).to(images.device)
        for index, top, left, flip in draws.split(batch_size, dim=1):
            x = crop_flip(images, index, top, left, flip.bool(), height, width)
            yield normalise(x, stats), labels[index]

    return n, epoch
