"""Our losses and their gradients against figures that the published code gave.

Each code ran once on a CPU, in double precision, on what `tensors` makes, without its `.cuda()` and
`.float()`. Figures are the loss, then the norms of its gradients. None of the codes' lines is here.

  AFA: https://github.com/xiezheng-cs/AFA at cc4afa6, models/regularizer.py
  DELTA: https://github.com/lixingjian/DELTA at 6ba10d2, train.py
  AFD: https://github.com/AberHu/Knowledge-Distillation-Zoo at 65470c8, kd_losses/afd.py
  AT: https://github.com/szagoruyko/attention-transfer at 893df54, utils.py
  DeepDA: https://github.com/jindongwang/transferlearning at f951df1, DeepDA's loss_funcs/mmd.py
  Transfer-Learning-Library: https://github.com/thuml/Transfer-Learning-Library at c4aa59e, tllib
  FBS: https://github.com/deep-fry/mayo at 7211a11, mayo/net/tf/gate
"""
import types

import pytest
import torch
import torch.nn.functional as F

import utils
from methods import attentive, delta, domains, from_source, losses

BATCH = 3
FEATURES = {'a': (BATCH, 5, 4, 4), 'b': (BATCH, 2, 3, 3)}


def tensors(seed, *shapes):
    """Uniform in [-1, 1)."""
    rng = torch.Generator().manual_seed(seed)
    return [2 * torch.rand(s, generator=rng, dtype=torch.double) - 1 for s in shapes]


def features():
    """Those of a source and of a target net, {layer: (B, C, H, W)}."""
    x = tensors(0, *FEATURES.values(), *FEATURES.values())
    target = [v.requires_grad_() for v in x[2:]]
    return dict(zip(FEATURES, x[:2], strict=True)), dict(zip(FEATURES, target, strict=True))


def check(loss, inputs, published, factor=1., constant=0.):
    """That the published loss is the factor times ours plus the constant, and its gradients."""
    norms = [v.norm().item() for v in torch.autograd.grad(loss, list(inputs))]
    found = [factor * loss.item() + constant, *(factor * v for v in norms)]
    assert found == pytest.approx(published, rel=1e-9, abs=0)


def compare(method, params, published, positions='', factor=1., normalize=False):
    """`check` of the regulariser of `method`, by the target's features, then by `params`;
    `positions` if not as by default."""
    opt = types.SimpleNamespace(positions=positions or losses.METHODS[method].positions,
                                normalize_features=normalize)
    source, target = features()
    outputs = (losses.Outputs(None, None, taps) for taps in (target, source))
    found = losses.METHODS[method].losses(losses.Batch(opt, params, None, None, None, *outputs))
    loss, = found[0] if isinstance(found, tuple) else found
    learnt = [v for v in params.values() if v.requires_grad]
    check(loss, [*target.values(), *learnt], published, factor)


def attention(kind):
    """Entries of all layers, of the shapes that `kind` gives them; in alphabetical order."""
    shapes = {f'attention.{layer}.{k}': v.shape for layer, (_, *size) in FEATURES.items()
              for k, v in sorted(kind(*size).items())}
    values = tensors(1, *shapes.values())
    return {k: v.requires_grad_() for k, v in zip(shapes, values, strict=True)}


# ---- losses without attention -------------------------------------------------------------------
# Ours are means over the batch; a factor stands where theirs are sums.

def test_feature_map():
    """reg_fea_map of DELTA, and of AFA, the same: sums over the batch and over positions."""
    compare('feature_map', {}, [93.34276063203, 12.32597089945, 5.895418784943], 'sum', BATCH)


def test_delta_of_given_channel_weights():
    """reg_att_fea_map of DELTA, and of AFA, the same: a sum over the batch."""
    weights = {f'teacher.channel_weights.{k}': v.abs() / v.abs().sum()
               for k, v in zip(FEATURES, tensors(2, (5,), (2,)), strict=True)}
    compare('delta', weights, [6.692826788268, .8459165199977, .9063789661895], factor=BATCH)


def test_channel_weights_of_delta():
    """The lines of DELTA's train.py that read --channel_wei."""
    growth, = tensors(5, (6,))
    assert delta.from_growth(growth).tolist() == pytest.approx(
        [.1942354516813, .1375229659794, .1506687687554, .144576539664, .1383151814343,
         .2346810924856], rel=1e-9, abs=0)


def test_l2_sp():
    """reg_l2sp of DELTA, and of AFA, the same, which leave the last layer out."""
    shapes = {'conv': (4, 3, 3, 3), 'scale': (4,), 'shift': (4,), 'fc': (2, 4)}
    params, start = (dict(zip(shapes, tensors(seed, *shapes.values()), strict=True))
                     for seed in (3, 4))
    params = {f'student.{k}': v.requires_grad_() for k, v in params.items()}
    start = {f'teacher.{k}': v for k, v in start.items() if k != 'fc'}
    batch = losses.Batch(None, {**params, **start}, *[None] * 5)
    loss, = losses.METHODS['l2_sp'].losses(batch)
    del params['student.fc']
    check(loss, params.values(), [38.59308815107, 8.523680204534, 1.735776479943, 1.232936366829])


def test_attention_transfer():
    """at_loss, of both layers."""
    source, target = features()
    loss = sum(utils.at_loss(y, source[k]) for k, y in target.items())
    check(loss, target.values(), [.06124992964379, .01479959160327, .04711724231459])


# ---- learned attention --------------------------------------------------------------------------

@pytest.mark.parametrize(('method', 'published'), [
    # pixel_attention and reg_pixel_att_fea_map_learn
    ('ast', [43.22341104273, 8.012877851166, 3.240881529961, 11.50251035093, 10.10163313281,
             7.025491724451, 2.179060308622, 1.223374183411, 1.24346967913]),
    # channel_attention and reg_channel_att_fea_map_learn
    ('act', [32.18775734078, 4.776184319834, 1.938231018561, .3655895634683, 1.848974909484,
             1.378312410883, .344415287428, .3973406534557, .5612450856955])])
def test_attention_of_afa(method, published):
    compare(method, attention(getattr(attentive, f'{method}_entries')), published)


def test_afd_with_squeeze_and_excitation():
    """The class AFD with att_f=1, its default, of each layer."""
    compare('afd', attention(attentive.squeeze_entries), [
        .3346390040274, .01558908867203, .05329305007176, .001766033964081, .002425664017164,
        .001109291847594, .0004498184550643, .006952266632957, .0001485616782994, .001337841424359,
        .0001333412000851], 'mean', normalize=True)


def test_squeeze_and_excitation_starts_as_published():
    """The class AFD's weights for 256 channels had these deviations; its biases were zeros."""
    torch.manual_seed(0)
    entries = attentive.squeeze_entries(256, 4, 4)
    for layer, deviation in (('squeeze', .0881), ('excite', .0884)):
        weight, bias = entries[f'{layer}.weight'], entries[f'{layer}.bias']
        assert weight.shape == (256, 256) and weight.std().item() == pytest.approx(deviation, .01)
        assert bias.tolist() == [0] * 256


def test_afd_of_flattened_maps():
    """The class AFD that is commented out, with the softmax that a comment in it has, as ours, in
    place of sigmoids divided by their sum."""
    compare('afd', attention(attentive.afd_entries), [
        .3368100551158, .01504074451238, .0570732978499, .003743512615619, .000391789493678,
        .003707300362269, .008901137296583, .01763131003659, .01019198876514, .01680238388088,
        .008107662777279], 'mean', normalize=True)


def test_distance_of_afd():
    """The same class as it stands, with sigmoids, its weights set to zero, so that the attention is
    that of the last bias alone. (Our distance has a half.)"""
    source, target = features()
    scores = [v.sigmoid() for v in tensors(2, (5,), (2,))]
    weights = {k: v / v.sum() for k, v in zip(FEATURES, scores, strict=True)}
    loss = from_source.feature_distance(source, target, weights, 'mean', normalize=True)
    check(loss, target.values(), [.3244697751798, .01476787871963, .05463808773085], factor=2)


# ---- domains, gates -----------------------------------------------------------------------------

@pytest.mark.parametrize(('distance', 'n', 'm', 'constant', 'published'), [
    # MMDLoss('linear') and MMDLoss('rbf') of DeepDA
    ('means', 5, 7, 0, [1.355729568271, 1.041433461445, .8801719209567]),
    ('biased', 5, 7, 0, [1.476933709444, .8854394686709, .8042267038846]),
    # MultipleKernelMaximumMeanDiscrepancy of Transfer-Learning-Library, of kernels
    # GaussianKernel(alpha=2 ** k) for k from -3 to 1, linear=False and True; it adds 2 / (n - 1)
    ('unbiased', 6, 6, 2 / 5, [.7381668142599, .8890530184752, .968352718145]),
    ('linear', 6, 6, 2 / 5, [1.182392538385, 1.039266201799, 1.215173949027])])
def test_distance_of_domains(distance, n, m, constant, published):
    x, y = tensors(6, (n, 4), (m, 4))
    x, y = x.requires_grad_(), (y + .5).requires_grad_()
    loss = (domains.linear_mmd(x, y) if distance == 'means' else
            domains.multi_kernel_mmd(x, y, estimator=distance))
    check(loss, (x, y), published, constant=constant)


@pytest.mark.parametrize(('density', 'published'), [
    (1., [65.83489887605, 4.718414624922, 13.17669076834, 4.23580427756, 30.15353435185,
          93.65225740672]),
    (.5, [32.08692173382, 4.718037003003, 12.99206386289, 4.2392481314, 30.26763400484,
          53.76437642143])])
def test_gate_of_fbs(density, published):
    """ParametricGatedConvolution with its defaults, run with torch under TensorFlow's names, of
    given statistics, with epsilon 1e-5 as in mayo's ResNet-18; the loss is the sum of squared
    outputs. Of two images fewer than four gates are positive, of two more."""
    y, x, weight, bias, shift, mean, var = tensors(13, (4, 8, 3, 3), (4, 3, 5, 5), (8, 3), (8,),
                                                   (8,), (8,), (8,))
    learnt = [v.requires_grad_() for v in (y, x, weight.mul_(4), bias, shift)]
    ones, taps = torch.ones(8, dtype=torch.double), {'bn.gate': None}
    gate = {'weight': weight, 'bias': bias, 'scale': ones, 'dynamic': ones, 'mask': ones,
            'density': torch.tensor(density)}
    params = {'bn.bias': shift, 'bn.running_mean': mean, 'bn.running_var': var.abs() + .5,
              **utils.with_prefix(gate, 'bn.gate.')}
    out = utils.gated(y, x, params, 'bn', False, taps)
    if density == 1:
        # there mayo counts all channels as on, and those with a gate of zero keep their shift
        out = out + (taps['bn.gate'] == 0)[:, :, None, None] * shift[:, None, None]
    check(F.relu(out).square().sum(), learnt, published)
