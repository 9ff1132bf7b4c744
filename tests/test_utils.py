"""Losses against loops written from the papers, in double precision; parameter dicts."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import utils
from methods import from_teacher


def features(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


OVER_CHANNELS = {'sum': lambda a: sum(abs(v) for v in a), 'sum2': lambda a: sum(v ** 2 for v in a),
                 'sum4': lambda a: sum(v ** 4 for v in a), 'max': lambda a: max(abs(v) for v in a)}


def attention_by_loop(x, mapping='sum2'):
    q = [OVER_CHANNELS[mapping]([x[c, i, j].item() for c in range(len(x))])
         for i in range(x.shape[1]) for j in range(x.shape[2])]
    norm = math.sqrt(sum(v * v for v in q))
    return [v / norm for v in q]


@pytest.mark.parametrize('mapping', utils.MAPPINGS)
def test_at_follows_the_paper(mapping):
    x = features(3, 5, 4, 6)
    expected = [attention_by_loop(image, mapping) for image in x]
    torch.testing.assert_close(utils.at(x, mapping=mapping),
                               torch.tensor(expected, dtype=torch.double))


@pytest.mark.parametrize('mapping', utils.MAPPINGS)
def test_at_loss_of_both_modes(mapping):
    x, y = features(3, 5, 4, 4), features(3, 7, 4, 4, seed=1)
    squares = [sum((p - q) ** 2 for p, q in zip(attention_by_loop(a, mapping),
                                                attention_by_loop(b, mapping), strict=True))
               for a, b in zip(x, y, strict=True)]
    assert utils.at_loss(x, y, mapping).item() == pytest.approx(sum(squares) / (3 * 16), rel=1e-12)
    eq2 = sum(map(math.sqrt, squares)) / 3 / 2      # the mean over the batch stands outside
    assert utils.at_loss(x, y, mapping, 'paper').item() == pytest.approx(eq2, rel=1e-12)


def test_activation_loss_by_loop():
    x, y = features(3, 5, 4, 4), features(3, 5, 4, 4, seed=1)
    total = 0
    for a, b in zip(x.flatten(1).tolist(), y.flatten(1).tolist(), strict=True):
        na, nb = (math.sqrt(sum(v * v for v in z)) for z in (a, b))
        total += sum((p / na - q / nb) ** 2 for p, q in zip(a, b, strict=True))
    assert utils.activation_loss(x, y).item() == pytest.approx(total / 3, rel=1e-12)


def test_gradient_loss_by_loop():
    j, target = features(3, 3, 4, 4), features(3, 3, 4, 4, seed=1)
    for t in (target, torch.zeros_like(j)):
        total = sum((p - q) ** 2 for p, q in zip(j.flatten().tolist(), t.flatten().tolist(),
                                                 strict=True))
        assert utils.gradient_loss(j, t).item() == pytest.approx(total / 3 / 2, rel=1e-12)
    assert utils.gradient_loss(j) == utils.gradient_loss(j, torch.zeros_like(j))


def tiny_net(x, w, v):
    """A smooth net: logits (B, 4) of images (B, 3, H, W)."""
    return F.linear(torch.tanh(F.conv2d(x, w, padding=1)).square().mean((2, 3)), v)


def tiny_gradient(x, labels, w, v, create_graph=False):
    x = x.detach().requires_grad_()
    return from_teacher.gradient(tiny_net(x, w, v), x, labels, create_graph)


def test_gradient_of_gradient_attention_is_that_of_finite_differences():
    """Eq. 5: the derivative of Eq. 4 with respect to the student's parameters."""
    x, labels = features(3, 3, 5, 5), torch.tensor([0, 3, 1])
    w, v = (features(*s, seed=i).requires_grad_() for i, s in enumerate([(2, 3, 3, 3), (4, 2)]))
    target = tiny_gradient(x, labels, features(2, 3, 3, 3, seed=5), features(4, 2, seed=6))
    assert target.abs().max() > 1e-3

    def loss(w, v):
        return utils.gradient_loss(tiny_gradient(x, labels, w, v, True), target)

    assert torch.autograd.gradcheck(loss, (w, v))


def test_gradients_are_each_images_own():
    x, labels = features(3, 3, 5, 5), torch.tensor([0, 3, 1])
    w, v = features(2, 3, 3, 3), features(4, 2)
    w.requires_grad_()
    j = tiny_gradient(x, labels, w, v)
    for i in range(3):
        alone = tiny_gradient(x[i:i + 1], labels[i:i + 1], w, v)
        torch.testing.assert_close(j[i:i + 1], alone)


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
    for mapping in utils.MAPPINGS:
        for mode in ('code', 'paper'):
            assert torch.autograd.gradcheck(lambda x, *how: utils.at_loss(x, y, *how),
                                            (x, mapping, mode))
    full = features(2, 3, 4, 4, seed=2)
    assert torch.autograd.gradcheck(lambda x: utils.activation_loss(x, full), x)
    for target in (full, 0.):
        assert torch.autograd.gradcheck(lambda x, t: utils.gradient_loss(x, t), (x, target))
        assert torch.autograd.gradgradcheck(lambda x, t: utils.gradient_loss(x, t), (x, target))
    z, t = features(2, 3).requires_grad_(), features(2, 3, seed=1)
    assert torch.autograd.gradcheck(
        lambda z: utils.distillation(z, t, torch.tensor([0, 2]), 4., .9), z)


@pytest.mark.parametrize('mapping', utils.MAPPINGS)
@pytest.mark.parametrize('mode', ['code', 'paper'])
def test_at_of_dead_channels_is_finite(mapping, mode):
    x = torch.zeros(2, 3, 4, 4, requires_grad=True)
    utils.at_loss(x, torch.ones(2, 3, 4, 4), mapping, mode).backward()
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


def test_messages_are_fit_to_be_printed():
    assert utils.shown('a\x1b[2Jb\udcff é\n\n2') == 'a\\x1b[2Jb\\udcff é\n\n2'
    assert len(utils.shown('x' * 10 ** 6)) == 80 and len(utils.shown('x ' * 10 ** 6)) <= 1000
    assert utils.shown('1\n2\n3\n4') == '1\n2\n3'


def test_want_of_memory_is_one_line(fails):
    for want in (torch.empty, np.empty):
        status, said = fails(lambda argv, want=want: want(2 ** 55))
        assert status == 1 and 'not enough memory' in said and len(said.splitlines()) == 1
