"""Removal of channels while a net is fine-tuned: by gates (AFS), by magnitude, at random.

  AFS: Wang et al., 'Pay Attention to Features, Transfer Learn Faster CNNs', ICLR 2020,
  https://openreview.net/forum?id=ryxyCeHtPB
  FBS: Gao et al., 'Dynamic Channel Pruning: Feature Boosting and Suppression',
  https://arxiv.org/abs/1810.05331

AFS follows secondary sources: its paper's text was not at hand. A gate is entries of the net's dict
under '<normalisation>.gate'; `utils.gated` computes it.
"""
import torch

import channels
import folding
import meta
import parallel
import step
import timing
import utils
from channels import inner, masked, norm_of, weight_of
from transfer import METHODS
from utils import InputError

# ---- gates --------------------------------------------------------------------------------------

# What stands for a scale of zero in a gate, which would take the shift off as well.
TINY = 1e-30


def gates(params):
    """The names of the normalisations that have a gate."""
    return [k.removesuffix('.gate.weight') for k in params if k.endswith('.gate.weight')]


def gated_sets(params):
    """{set: the name of its gated normalisation}."""
    names = {conv: norm_of(params, conv) for conv in inner(params)}
    return {conv: base for conv, base in names.items() if f'{base}.gate.weight' in params}


@torch.no_grad()
def with_gates(f, params, density=1.):
    """The net with a gate on each set of channels, in the batch normalisation behind its (first)
    convolution, which loses its scale to it; `utils.gated` computes it.

    The entries are the predictor's `weight` (C, C_in), zeros, and `bias` (C,), the old scale's
    absolute value; `scale` (C,), the same, which is used where a channel is not `dynamic` (C,);
    `mask` (C,); `density` (). What is negative of the old scale moves into the convolution, so that
    at density 1 the net computes in evaluation mode what it did. A WRN gets none: its
    normalisations are not applied with a convolution.
    """
    channels.check_part('density', density)
    used = set(folding.normalisations(f, params))
    for conv in inner(params):
        base = norm_of(params, conv)
        if base in used and base == utils.bn_of(conv) and f'{base}.weight' in params and any(
                f'{base}.{kind}_mean' in params for kind in ('running', 'fixed')):
            params = with_gate(params, conv, base, density)
    if not gates(params):
        raise InputError('this net has no place for gates: they replace the scale of batch '
                         'normalisation that follows a convolution inside of a block')
    return params


def with_gate(params, conv, base, density):
    weight, scale = weight_of(params, conv), params[f'{base}.weight']
    sign = torch.where(scale < 0, -1., 1.).to(scale.dtype)
    size, learnt = scale.abs().clamp_min(TINY), scale.requires_grad
    new = {'weight': scale.new_zeros(params[weight].shape[:2]), 'bias': size, 'scale': size.clone(),
           'dynamic': torch.ones_like(size), 'mask': torch.ones_like(size),
           'density': scale.new_tensor(density)}
    turned = {k: params[k] for k in (weight, f'{conv}.bias', f'{base}.running_mean',
                                     f'{base}.fixed_mean') if k in params}
    turned = {k: (v * sign.view(-1, *[1] * (v.ndim - 1))).requires_grad_(v.requires_grad)
              for k, v in turned.items()}
    return {**{k: v for k, v in params.items() if k != f'{base}.weight'}, **turned,
            **{f'{base}.gate.{k}': v.requires_grad_(learnt and not utils.is_statistic(f'.gate.{k}'))
               for k, v in new.items()}}


@torch.no_grad()
def statistics(f, params, batches):
    """What the gates do, over batches of inputs (B, 3, H, W), in evaluation mode: {normalisation:
    {'mean', 'variance': those of q; 'pi': the mean of pi; each (C,), in double precision}}."""
    sums, first, n = {}, {}, 0
    for inputs in batches:
        taps = dict.fromkeys(k for b in gates(params) for k in (f'{b}.gate', f'{b}.gate.q'))
        f(inputs, params, False, taps=taps)
        for base in gates(params):
            q, pi = taps[f'{base}.gate.q'].double(), taps[f'{base}.gate'].double()
            # sums of differences, so that what never varies has no variance
            d = q - first.setdefault(base, q[0])
            sums[base] = sums.get(base, 0) + torch.stack([d.sum(0), d.square().sum(0), pi.sum(0)])
        n += len(q)
    return {base: moments(s / n, first[base]) for base, s in sums.items()}


def moments(means, first):
    d, squares, pi = means
    return {'mean': first + d, 'variance': (squares - d.square()).clamp_min(0), 'pi': pi}


@torch.no_grad()
def update(params, found, delta_s):
    """The net in which channels whose q, by `found` (of `statistics`), has a variance of at most
    `delta_s` have a scale that is the same for all images: the mean of q, at first. None becomes
    dynamic again."""
    params = dict(params)
    for base in gates(params):
        scale, dynamic = (params[f'{base}.gate.{k}'] for k in ('scale', 'dynamic'))
        still = (dynamic > 0) & (found[base]['variance'] <= delta_s)
        new = torch.where(still, found[base]['mean'].to(scale.dtype), scale)
        params[f'{base}.gate.scale'] = new.requires_grad_(scale.requires_grad)
        params[f'{base}.gate.dynamic'] = torch.where(still, 0, dynamic)
    return params


def mask_to_target(f, params, found, size, target, multiple=1):
    """The net with the channels `masked` whose mean pi, by `found` (of `statistics`), is least, as
    `channels.to_target` says; `target` is a part of what the net takes once it is `settled`. What
    is masked already stays it."""
    scores = channels.of_left(params, {conv: found[base]['pi'].abs() for conv, base in
                                       gated_sets(params).items()})
    keep = channels.to_target(f, settled(params), channels.trained(params, scores), size, target,
                              multiple)
    return masked(params, keep)


def settled(params, all_of_them=False):
    """The net with plain batch normalisation in place of gates that have no dynamic channels, or of
    all, as if they had none."""
    for base in gates(params):
        if all_of_them or not params[f'{base}.gate.dynamic'].any():
            params = without_gate(params, base)
    return params


@torch.no_grad()
def without_gate(params, base):
    scale, shift = params[f'{base}.gate.scale'], params[f'{base}.bias']
    shift = torch.where(scale == 0, 0, shift).requires_grad_(shift.requires_grad)
    return {**{k: v for k, v in params.items() if not k.startswith(f'{base}.gate.')},
            f'{base}.weight': scale, f'{base}.bias': shift}


def removed(params):
    """The net without its masked channels, `settled`: a smaller dict, of the same logits."""
    return settled(channels.cut(params, channels.left(params)))


# ---- what gates leave ---------------------------------------------------------------------------

def shares(params, taps):
    """Of each layer, the part of its multiply-adds that is done in each image: {key: (B,)}.

    A channel whose pi is 0 costs nothing where it is computed, in the depthwise convolution behind
    (what that gives is the same everywhere and for all images), and where it is read.
    """
    found = {}
    for conv, base in gated_sets(params).items():
        part = (taps[f'{base}.gate'] != 0).double().mean(1)
        makers, readers = inner(params)[conv]
        for layer in (*makers, *readers):
            key = weight_of(params, layer)
            found[key] = found.get(key, 1) * part
    return found


@torch.no_grad()
def dynamic_macs(f, params, batches, size):
    """The mean over images, batches of inputs (B, 3, H, W), of the multiply-adds that gates leave
    in an image of size x size pixels; the predictors are counted in full."""
    full, means = meta.multiply_adds(f, params, size), []
    if not gates(params):
        return float(full)
    spent = channels.costs(params, channels.areas(f, params, size))
    for inputs in batches:
        taps = dict.fromkeys(f'{base}.gate' for base in gates(params))
        f(inputs, params, False, taps=taps)
        means.append(full - sum(spent[k] * (1 - s) for k, s in shares(params, taps).items()))
    return float(torch.cat(means).mean())


# ---- phases of training -------------------------------------------------------------------------

KINDS = ('afs', 'magnitude', 'random')
DEFAULTS = dict(macs_target=1., phases=3, density=1., delta_s=0., round_channels=1)


def add_flags(parser):
    p = parser.add_argument_group('removal of channels')
    p.add_argument('--prune', default='', choices=['', *KINDS], help='take channels out: those '
                   'whose gates, which are trained too, give least (AFS; with --method afd AFDS), '
                   'those of least magnitude, or random ones; per multiply-add')
    p.add_argument('--macs_target', type=float, help='multiply-adds that are left, as a '
                   "part of the net's")
    p.add_argument('--phases', type=int, metavar='N', help='equal parts of training, '
                   'before each but the first of which channels are taken out, each time the same '
                   'part; 1: all of them before training')
    p.add_argument('--density', type=float, help='afs: the part of the channels left '
                   'that is computed for an image in the last phase; in the first one all are')
    p.add_argument('--delta_s', type=float, help='afs: gates whose variance over the '
                   'training images is no more than this become the same for all images')
    p.add_argument('--round_channels', type=int, metavar='N', help='leave multiples of '
                   'N channels')
    parser.set_defaults(**DEFAULTS)


def check_flags(opt):
    given = [f'--{k}' for k, v in DEFAULTS.items() if getattr(opt, k) != v]
    if given and not opt.prune:
        raise InputError(f'{given[0]} belongs to --prune')
    channels.check_part('--macs_target', opt.macs_target)
    channels.check_part('--density', opt.density)
    if opt.prune == 'afs' and {'bn', 'body'} & set(opt.freeze):
        raise InputError(f'--prune afs trains gates in place of scales, which --freeze '
                         f'{" ".join(opt.freeze)} leaves as they are')
    if opt.prune in ('magnitude', 'random'):
        wrong = {'--density', '--delta_s'} & set(given)
        if wrong:
            raise InputError(f'--prune {opt.prune} has no gates: {wrong.pop()} belongs to afs')
        if opt.macs_target == 1:
            raise InputError(f'--prune {opt.prune} removes nothing: give a --macs_target below 1')


def starts(opt):
    """The epochs with which phases begin: {epoch: the part of the way that is gone, 0 to 1}."""
    if opt.phases == 1:
        return {1: 1.}
    return {1 + p * opt.epochs // opt.phases: p / (opt.phases - 1) for p in range(opt.phases)}


def prepared(opt, f, params, size):
    """The net as training starts from it: with gates, if those are trained. Refuses what would fail
    in a later phase."""
    if not opt.prune:
        return params
    if opt.epochs < opt.phases:
        raise InputError(f'--phases {opt.phases}: there are {opt.epochs} epochs; give less, or a '
                         f'smaller --epoch_steps')
    gated = with_gates(f, params) if opt.prune == 'afs' else params
    scores = {k: v for k, v in channels.by_chance(params, 0).items()
              if opt.prune != 'afs' or k in gated_sets(gated)}
    scores = channels.trained(params, scores)
    channels.to_target(f, params, scores, size, opt.macs_target, opt.round_channels)
    return gated


@torch.no_grad()
def begin_phase(opt, f, params, epoch, size, batches):
    """Where a phase begins with the epoch, mask channels of the student in `params` (as of
    `loop.Training`), in place -> whether it does. `batches` are of training images."""
    way = starts(opt).get(epoch) if opt.prune else None
    student = utils.without_prefix(params, 'student.')
    if way:
        student = parallel.from_first(lambda: {k: v.cpu() for k, v in pruned(
            opt, f, student, way, epoch > 1, size, batches).items()})
        for k, v in student.items():
            params[f'student.{k}'].data.copy_(v)
    if opt.prune and METHODS[opt.method].needs == 'parameters':
        # what those are drawn to is zero too; in each epoch, since a continued run starts anew
        compared = utils.without_prefix(params, 'teacher.')
        whole = masked({**student, **compared}, channels.left(student))
        for k, v in compared.items():
            v.copy_(whole[k])
    return bool(way)


def pruned(opt, f, params, way, trained, size, batches):
    """The net with the masks, and the density, that are due after a part of the way, above 0, to 1.
    Gates that are not `trained` yet stay dynamic."""
    positions, target = channels.areas(f, params, size), opt.macs_target ** way
    whole = channels.macs(plain(params), positions)
    if opt.prune != 'afs':
        scores = channels.of_left(params, channels.by_chance(params, opt.seed) if
                                  opt.prune == 'random' else channels.by_magnitude(params))
        keep = channels.to_target(f, params, channels.trained(params, scores), size, target,
                                  opt.round_channels)
        params = masked(params, keep)
    else:
        found = statistics(f, params, (inputs for inputs, _ in batches))
        params = update(params, found, opt.delta_s) if trained else params
        now = channels.macs(settled(params), positions)     # gates cost something too
        params = mask_to_target(f, params, found, size, min(1., target * whole / now),
                                opt.round_channels)
        params |= {f'{base}.gate.density': torch.full_like(
            params[f'{base}.gate.density'], opt.density ** way) for base in gates(params)}
    print(f'{channels.macs(removed(params), positions) / whole:.3f} of the multiply-adds are left')
    if opt.prune == 'afs':
        on, dynamic = (int(sum(params[f'{base}.gate.{k}'].sum() for base in gates(params)))
                       for k in ('mask', 'dynamic'))
        print(f'the density is {opt.density ** way:.2f}; of {on} gates {dynamic} differ from image '
              f'to image')
    return params


# ---- what is left -------------------------------------------------------------------------------

def plain(params):
    """The net as it was without gates and masks, but for values."""
    return settled(params, all_of_them=True)


def size_of(f, params, pixels):
    """Parameters, and multiply-adds of an image of pixels x pixels."""
    return (sum(v.numel() for k, v in params.items() if not utils.is_statistic(k)),
            meta.multiply_adds(f, params, pixels))


def notes(f, params, size, batches):
    """For the log, of a net with masks: multiply-adds of an image of size x size pixels in the net
    that it was, in the cut one, and in that less what gates leave out, the mean over `batches`;
    parameters of the cut one."""
    small = removed(params)
    count, macs = size_of(f, small, size)
    return {'multiply_adds_before': size_of(f, plain(params), size)[1], 'multiply_adds': macs,
            'multiply_adds_dynamic': dynamic_macs(f, small, (x for x, _ in batches), size),
            'n_parameters_cut': count}


def speeds(opt, device, f, nets, size, batch=32, rounds=5, steps=3):
    """Images/s in evaluation of {name: params} of one function, in batches of images of size x size
    pixels: {name: [in each round]}; the nets take turns of so many steps."""
    x = torch.randn(batch, 3, size, size, device=device, dtype=step.parameter_dtype(opt.dtype))
    x = x.contiguous(memory_format=torch.channels_last)

    def forward(params):
        folded = step.on_device(folding.fold(params), opt.dtype, device, fixed=True)

        def run():
            with torch.no_grad(), step.precision(opt.dtype, device):
                f(x, folded, False)

        return run

    times = timing.turns({k: forward(v) for k, v in nets.items()}, rounds, steps)
    return {k: [batch / t for t in v] for k, v in times.items()}
