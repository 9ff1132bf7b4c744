"""Losses against loops written from the papers, in double precision; parameter dicts."""
import math

import pytest
import torch

import utils


def features(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def attention_by_loop(x):
    q = [[sum(x[c, i, j].item() ** 2 for c in range(len(x))) for j in range(x.shape[2])]
         for i in range(x.shape[1])]
    norm = math.sqrt(sum(v * v for row in q for v in row))
    return [v / norm for row in q for v in row]


def test_at_follows_the_paper():
    x = features(3, 5, 4, 6)
    expected = [attention_by_loop(image) for image in x]
    torch.testing.assert_close(utils.at(x), torch.tensor(expected, dtype=torch.double))


def test_at_loss_is_the_mean_of_squared_differences():
    x, y = features(3, 5, 4, 4), features(3, 7, 4, 4, seed=1)
    total = 0
    for a, b in zip(x, y, strict=True):
        total += sum((p - q) ** 2 for p, q in zip(attention_by_loop(a), attention_by_loop(b),
                                                  strict=True))
    assert utils.at_loss(x, y).item() == pytest.approx(total / (3 * 16), rel=1e-12)


def test_at_loss_resizes_the_teachers_map():
    x, y = features(2, 3, 4, 4), torch.ones(2, 5, 8, 8, dtype=torch.double)
    flat = torch.ones(2, 3, 4, 4, dtype=torch.double)
    torch.testing.assert_close(utils.at_loss(x, y), utils.at_loss(x, flat))
    assert utils.at_loss(flat, y).item() == pytest.approx(0, abs=1e-20)
    # halves, through the triangle filter of an antialiased bilinear resize by two
    half = torch.zeros(1, 1, 8, 8, dtype=torch.double)
    half[..., :4] = 1
    row = torch.tensor([8., 7., 1., 0.], dtype=torch.double)
    expected = row.repeat(4) / row.repeat(4).norm()
    torch.testing.assert_close(utils.at(half, (4, 4))[0], expected)


def test_distillation_follows_the_paper():
    y, t, labels, T, alpha = features(4, 6), features(4, 6, seed=1), [0, 5, 2, 2], 4., .9
    total = 0
    for row, other, label in zip(y.tolist(), t.tolist(), labels, strict=True):
        def softmax(z, T):
            e = [math.exp(v / T) for v in z]
            return [v / sum(e) for v in e]
        kl = sum(q * math.log(q / p) for p, q in zip(softmax(row, T), softmax(other, T),
                                                     strict=True))
        total += alpha * T * T * kl - (1 - alpha) * math.log(softmax(row, 1)[label])
    loss = utils.distillation(y, t, torch.tensor(labels), T, alpha)
    assert loss.item() == pytest.approx(total / 4, rel=1e-12)


def test_gradients_of_the_losses():
    x, y = features(2, 3, 4, 4).requires_grad_(), features(2, 5, 4, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: utils.at_loss(x, y), x)
    z, t = features(2, 3).requires_grad_(), features(2, 3, seed=1)
    assert torch.autograd.gradcheck(
        lambda z: utils.distillation(z, t, torch.tensor([0, 2]), 4., .9), z)


def test_at_of_dead_channels_is_finite():
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    utils.at_loss(x, torch.ones(2, 3, 4, 4)).backward()
    assert x.grad.isfinite().all()


def test_maps_are_in_single_precision_for_bfloat16():
    assert utils.at(features(2, 3, 4, 4).bfloat16()).dtype == torch.float32


def test_batch_norm_updates_statistics_in_training_only():
    params = {f'bn.{k}': v for k, v in utils.bnparams(3).items()}
    before = {k: v.clone() for k, v in params.items()}
    x = features(8, 3, 4, 4).float()
    utils.batch_norm(x, params, 'bn', False)
    assert all(torch.equal(params[k], before[k]) for k in params)
    utils.batch_norm(x, params, 'bn', True)
    torch.testing.assert_close(params['bn.running_mean'], .1 * x.mean((0, 2, 3)))
    with pytest.raises(TypeError, match='mode'):
        utils.batch_norm(x, params, 'bn', 1)


def test_flatten_and_prefixes():
    flat = utils.flatten({'a': {'b': 1, 'c': None}, 'd': 2})
    assert flat == {'a.b': 1, 'd': 2}
    assert utils.without_prefix(utils.with_prefix(flat, 'x.'), 'x.') == flat


def test_print_tensor_dict(capsys):
    params = {'bn.' + k: v for k, v in utils.bnparams(3).items()}
    utils.set_requires_grad_except_bn_(params)
    utils.print_tensor_dict(params)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and 'bn.running_mean' in lines[2] and 'fixed' in lines[2]
    assert params['bn.weight'].requires_grad and not params['bn.running_var'].requires_grad
