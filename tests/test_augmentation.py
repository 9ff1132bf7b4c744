"""The augmentation of a whole batch against one image at a time."""
import numpy as np
import pytest
import torch

from data import arrays
from utils import InputError

MEAN, STD = (125.3, 123., 113.9), (63., 62.1, 66.7)


def images(n=13, height=8, width=10):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_augmentation_equals_a_loop_over_images():
    x, pad = images(), 2
    padded = arrays.pad_reflect(x, pad)
    made = arrays.held_images(torch.from_numpy(padded), torch.arange(13), 5, MEAN, STD,
                              torch.double, pad=pad, train=True)
    batches = list(made.batches(torch.Generator().manual_seed(3)))
    rng = torch.Generator().manual_seed(3)
    order = torch.randperm(13, generator=rng)
    top, left = torch.randint(2 * pad + 1, (2, 13), generator=rng)
    flip = torch.randint(2, (13,), generator=rng)
    assert made.n == 13 and [len(y) for _, y in batches] == [5, 5, 3]
    assert torch.equal(torch.cat([y for _, y in batches]), order)
    for k, got in enumerate(torch.cat([b for b, _ in batches])):
        image = np.pad(x[order[k]], ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
        image = image[top[k]:top[k] + 8, left[k]:left[k] + 10]
        image = image[:, ::-1] if flip[k] else image
        expected = (image - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(got.numpy(), expected.transpose(2, 0, 1), rtol=1e-12)


def test_crops_and_mirrors_are_uniform():
    x = np.zeros((4000, 6, 6, 3), np.uint8)
    x[:, 2, 2] = 255        # where this pixel ends up tells the crop and the mirror
    padded = torch.from_numpy(arrays.pad_reflect(x, 1))
    made = arrays.held_images(padded, torch.zeros(4000), 4000, (0,) * 3, (255,) * 3, pad=1,
                              train=True)
    (batch, _), = made.batches(torch.Generator().manual_seed(0))
    places = batch[:, 0].nonzero()[:, 1:].unique(dim=0, return_counts=True)
    assert {tuple(p) for p in places[0].tolist()} == {(i, j) for i in (1, 2, 3)
                                                      for j in (1, 2, 3, 4)}
    rows = torch.bincount(batch[:, 0].nonzero()[:, 1])[1:4] / 4000
    assert (rows - 1 / 3).abs().max() < .03


def test_order_changes_from_epoch_to_epoch_and_follows_the_seed():
    """And leaves torch's own random numbers alone."""
    made = arrays.held_images(torch.zeros(50, 4, 4, 3, dtype=torch.uint8), torch.arange(50), 50,
                              MEAN, STD, train=True)

    def two_epochs():
        rng = torch.Generator().manual_seed(1)
        return [next(made.batches(rng))[1].tolist() for _ in range(2)]

    before = torch.get_rng_state()
    first, second = two_epochs()
    assert first != second and sorted(first) == list(range(50)) and two_epochs() == [first, second]
    assert torch.equal(torch.get_rng_state(), before)


def test_test_batches_are_whole_in_order_and_channels_last():
    x = torch.from_numpy(images())
    batches = list(arrays.held_images(x, torch.arange(13), 5, MEAN, STD).batches())
    assert torch.cat([y for _, y in batches]).tolist() == list(range(13))
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    got = torch.cat([b for b, _ in batches]).permute(0, 2, 3, 1)
    torch.testing.assert_close(got * torch.tensor(STD) + torch.tensor(MEAN), x.float())


def test_padding_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match='randomcrop_pad'):
        arrays.pad_reflect(images(), 8)


def test_one_image_that_is_left_over_joins_the_batch_before():
    sizes = {n: arrays.sizes_of(n, 4) for n in (1, 4, 5, 6, 9)}
    assert sizes == {1: [1], 4: [4], 5: [5], 6: [4, 2], 9: [4, 5]}
