"""Pruning of channels while a net is fine-tuned, in phases: by gates (AFS), magnitude or chance."""
from functools import partial
from statistics import median

import torch

import utils
from engine import flags, step
from methods import channels, gates
from methods.channels import masked
from methods.losses import METHODS
from system import clock, processes
from utils import InputError
from weights import facts, folding

# ---- phases of training -------------------------------------------------------------------------

KINDS = ('afs', 'magnitude', 'random')
DEFAULTS = dict(macs_target=1., phases=3, density=1., delta_s=0., round_channels=1)


def add_flags(parser):
    p = parser.add_argument_group('pruning of channels')
    p.add_argument('--prune', default='', choices=['', *KINDS], help='prune the channels '
                   'whose gates, which are trained too, give least (afs; with --method afd this is '
                   'AFDS), those of least magnitude, or random ones; with --evaluate: print '
                   'how well these rank the channels of the tested net')
    p.add_argument('--macs_target', type=float, metavar='X', help='multiply-adds (MACs) to keep, '
                   "as a part of the net's")
    p.add_argument('--phases', type=int, metavar='N', help='equal parts of training, before each '
                   'but the first of which channels are pruned, each time the same part of the '
                   'multiply-adds; 1: all of them before training')
    p.add_argument('--density', type=float, metavar='X', help='afs: the part of the remaining '
                   'channels that is computed for an image in the last phase; in the first one all '
                   'are')
    p.add_argument('--delta_s', type=float, metavar='X', help='afs: gates whose variance over the '
                   'training images is no more than this become the same for all images')
    p.add_argument('--round_channels', type=int, metavar='N', help='keep multiples of N channels')
    parser.set_defaults(**DEFAULTS)


def check_flags(opt):
    flags.check_numbers(opt, above_zero=('phases', 'round_channels'), zero_or_more=['delta_s'])
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


def with_trained_gates(opt, f, params, size):
    """The net as training starts from it: with gates, if those are trained. Refuses what would fail
    in a later phase."""
    if not opt.prune:
        return params
    if opt.epochs < opt.phases:
        raise InputError(f'--phases {opt.phases}: there are {opt.epochs} epochs; give less, or a '
                         f'smaller --epoch_steps')
    gated = gates.with_gates(f, params) if opt.prune == 'afs' else params
    scores = {k: v for k, v in channels.by_chance(params, 0).items()
              if opt.prune != 'afs' or k in gates.gated_sets(gated)}
    scores = channels.of_trained(params, scores)
    channels.to_target(f, params, scores, size, opt.macs_target, opt.round_channels)
    return gated


@torch.no_grad()
def begin_phase(opt, f, params, epoch, size, batches):
    """Where a phase begins with the epoch, mask channels of the student in `params` (as of
    `loop.Training`), in place -> whether it does. `batches` are of training images."""
    progress = starts(opt).get(epoch) if opt.prune else None
    student = utils.without_prefix(params, 'student.')
    if progress:
        student = processes.from_first(lambda: {k: v.cpu() for k, v in pruned(
            opt, f, student, progress, epoch > 1, size, batches).items()})
        for k, v in student.items():
            params[f'student.{k}'].data.copy_(v)
    if opt.prune and METHODS[opt.method].needs == 'parameters':
        # what those are drawn to is zero too; in each epoch, since a continued run starts anew
        compared = utils.without_prefix(params, 'teacher.')
        whole = masked({**student, **compared}, channels.unmasked(student))
        for k, v in compared.items():
            v.copy_(whole[k])
    return bool(progress)


def pruned(opt, f, params, progress, trained, size, batches):
    """The net with the masks, and the density, that are due after a part of the way, `progress`, 0
    to 1. Gates that are not `trained` yet stay dynamic."""
    positions, target = channels.areas(f, params, size), opt.macs_target ** progress
    whole = channels.macs(gates.plain(params), positions)
    if opt.prune != 'afs':
        scores = channels.masked_lowest(params, channels.by_chance(params, opt.seed) if
                                      opt.prune == 'random' else channels.by_magnitude(params))
        keep = channels.to_target(f, params, channels.of_trained(params, scores), size, target,
                                  opt.round_channels)
        params = masked(params, keep)
    else:
        found = gates.statistics(f, params, (inputs for inputs, _ in batches))
        params = gates.make_static(params, found, opt.delta_s) if trained else params
        now = channels.macs(gates.settled(params), positions)     # gates cost something too
        params = gates.mask_to_target(f, params, found, size, min(1., target * whole / now),
                                      opt.round_channels)
        params |= {k: torch.full_like(params[k], opt.density ** progress)
                   for k in (f'{base}.gate.density' for base in gates.gates(params))}
    part = channels.macs(gates.pruned(params), positions) / whole
    print(f'{part:.3f} of the multiply-adds are left')
    if opt.prune == 'afs':
        on, dynamic = (int(sum(params[f'{base}.gate.{k}'].sum() for base in gates.gates(params)))
                       for k in ('mask', 'dynamic'))
        print(f'the density is {opt.density ** progress:.2f}; of {on} gates {dynamic} differ from '
              f'image to image')
    return params


def size_of(f, params, pixels):
    """Parameters, and multiply-adds of an image of pixels x pixels."""
    return (sum(v.numel() for k, v in params.items() if not utils.is_statistic(k)),
            facts.multiply_adds(f, params, pixels))


def logged(opt, lines, f, params, size, images):
    """For the log's last line, of the masked student in `params`: multiply-adds of an image of
    size x size pixels in the net that it was, in the cut one, and in that less what gates leave
    out, the mean over `images`; parameters of the cut one. Before the last epoch, nothing."""
    if not opt.prune or lines[-1]['epoch'] < opt.epochs:
        return {}
    student = utils.without_prefix(params, 'student.')
    small = gates.pruned(student)
    count, macs = size_of(f, small, size)
    inputs = (x for x, _ in images.batches())
    return {'multiply_adds_before': size_of(f, gates.plain(student), size)[1],
            'multiply_adds': macs, 'n_parameters_cut': count,
            'multiply_adds_dynamic': gates.dynamic_macs(f, small, inputs, size)}


def speeds(opt, device, f, nets, size, batch=32, rounds=5, steps=3):
    """Images/s in evaluation of {name: params} of one function, in batches of images of size x size
    pixels: {name: [in each round]}; the nets take turns of so many steps."""
    x = torch.randn(batch, 3, size, size, device=device, dtype=step.parameter_dtype(opt.dtype))
    x, timed = x.contiguous(memory_format=torch.channels_last), {}
    for name, params in nets.items():
        folded = step.on_device(folding.fold(params), opt.dtype, device, fixed=True)
        timed[name] = partial(clock.seconds, partial(step.logits_of, f, folded, x, opt.dtype),
                              steps)
    return {k: [batch / t for t in v] for k, v in clock.turns(timed, rounds).items()}


def report(opt, device, f, params, last):
    """Print what pruning has given the masked net; `last` is the last line of the run's log."""
    size, both = last['input_size'], {'before': gates.plain(params), 'after': gates.pruned(params)}
    images = {k: median(v) for k, v in speeds(opt, device, f, both, size).items()}
    macs = {}
    for k, v in both.items():
        count, macs[k] = size_of(f, v, size)
        print(f'{k} pruning: {count:,} parameters, {macs[k]:,} multiply-adds, '
              f'{images[k]:.0f} images/s')
    print(f'{macs["after"] / macs["before"]:.3f} of the multiply-adds, '
          f'{images["after"] / images["before"]:.2f} times the images/s')
    if last['multiply_adds_dynamic'] != last['multiply_adds']:
        print(f'its gates leave {last["multiply_adds_dynamic"] / last["multiply_adds_before"]:.3f} '
              f'of the multiply-adds, the mean over the test images, if what they turn off is '
              f'skipped')
