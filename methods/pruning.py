"""Pruning of channels during fine-tuning, in phases: by gates (AFS), by magnitude or at random."""
from functools import partial
from statistics import median

import torch

import utils
from engine import flags, step
from methods import channels, gates
from methods.losses import METHODS
from system import clock, processes
from utils import InputError
from weights import facts, folding

# ---- flags --------------------------------------------------------------------------------------

KINDS = ('afs', 'magnitude', 'random')
DEFAULTS = dict(macs_target=1., phases=3, density=1., delta_s=0., round_channels=1)


def add_flags(parser):
    """Add the flags of pruning."""
    p = parser.add_argument_group('pruning of channels', 'No published values of --phases and '
                                  '--density are known.')
    p.add_argument('--prune', default='', choices=['', *KINDS], help='which channels to prune: '
                   'afs: those with the smallest gates, which are learned (with --method afd this '
                   'is AFDS); magnitude: those with the smallest filters; random. With --evaluate: '
                   'print how well these scores rank the channels of the tested net')
    p.add_argument('--macs_target', type=float, metavar='X', help='fraction of the multiply-adds '
                   '(MACs) to keep')
    p.add_argument('--phases', type=int, metavar='N', help='divide training into N equal phases; '
                   'channels are pruned at the start of each but the first, by the same factor of '
                   'the multiply-adds each time; 1: all at once, before training')
    p.add_argument('--density', type=float, metavar='X', help='afs: fraction of the remaining '
                   'channels that is computed for each image in the last phase; in the first phase '
                   'all are')
    p.add_argument('--delta_s', type=float, metavar='X', help='afs: gates whose variance over the '
                   'training images is at most X become static, the same for all images; 0.5 in a '
                   'reproduction')
    p.add_argument('--round_channels', type=int, metavar='N', help='keep multiples of N channels')
    parser.set_defaults(**DEFAULTS)


def check_flags(opt):
    """Raise an InputError for invalid options of pruning, alone or together."""
    flags.check_numbers(opt, above_zero=('phases', 'round_channels'), zero_or_more=['delta_s'])
    for name in ('macs_target', 'density'):
        if not 0 < getattr(opt, name) <= 1:
            raise InputError(f'--{name} is {getattr(opt, name):g}: give a number above 0, at most '
                             f'1')
    given = [f'--{k}' for k, v in DEFAULTS.items() if getattr(opt, k) != v]
    if given and not opt.prune:
        raise InputError(f'{given[0]} belongs to --prune')
    if opt.prune == 'afs' and {'bn', 'body'} & set(opt.freeze):
        raise InputError(f'--prune afs trains gates in place of scales, which --freeze '
                         f'{" ".join(opt.freeze)} leaves as they are')
    if opt.prune in ('magnitude', 'random'):
        if wrong := {'--density', '--delta_s'} & set(given):
            raise InputError(f'--prune {opt.prune} has no gates: {wrong.pop()} belongs to afs')
        if opt.macs_target == 1:
            raise InputError(f'--prune {opt.prune} prunes nothing: give a --macs_target below 1')


# ---- phases of training -------------------------------------------------------------------------

def phases(opt):
    """Return the epochs with which phases begin, and how far pruning has come in each, from 0 to 1
    in the last one: {epoch: progress}."""
    if opt.phases == 1:
        return {1: 1.}
    return {1 + p * opt.epochs // opt.phases: p / (opt.phases - 1) for p in range(opt.phases)}


def net_to_prune(opt, f, params, size):
    """Return the net with which training starts: with gates for AFS, else as it is. InputError for
    what would fail in a later phase."""
    if not opt.prune:
        return params
    if opt.epochs < opt.phases:
        raise InputError(f'--phases {opt.phases}: training has {opt.epochs} epoch'
                         f'{"s" * (opt.epochs > 1)}; give fewer phases, or a smaller '
                         f'--steps_per_epoch')
    scores, start = channels.by_chance(params, 0), params
    if opt.prune == 'afs':
        start = gates.with_gates(params)
        scores = {k: scores[k] for k in gates.gated_sets(start)}
    scores = channels.of_trained(params, scores)
    channels.to_target(f, params, scores, size, opt.macs_target, opt.round_channels)
    return start


@torch.no_grad()
def begin_phase(opt, f, params, epoch, size, batches):
    """Mask channels of the student in `params` (as of `loop.Training`), in place, if a phase that
    prunes begins with the epoch -> whether one does. `batches` are of training images."""
    progress = phases(opt).get(epoch) if opt.prune else None
    student = utils.without_prefix(params, 'student.')
    if progress:
        student = processes.from_first(lambda: {k: v.cpu() for k, v in next_phase(
            opt, f, student, progress, epoch > 1, size, batches).items()})
        for k, v in student.items():
            params[f'student.{k}'].data.copy_(v)
    if opt.prune and METHODS[opt.method].needs == 'parameters':
        # what the student is drawn to is masked too; in each epoch, as a continued run starts anew
        source = utils.without_prefix(params, 'teacher.')
        whole = channels.masked({**student, **source}, channels.unmasked(student))
        for k, v in source.items():
            v.copy_(whole[k])
    return bool(progress)


def next_phase(opt, f, params, progress, trained, size, batches):
    """Return the net with more channels masked, and gates of lower density, as is due at `progress`
    from 0 to 1; print what is left. Gates that are not `trained` yet stay dynamic."""
    whole = facts.multiply_adds(f, gates.without_gates(params), size)
    if opt.prune == 'afs':
        found = gates.statistics(f, params, (inputs for inputs, _ in batches))
        params = gates.make_static(params, found, opt.delta_s) if trained else params
        scores = gates.by_gates(params, found)
    else:
        scores = (channels.by_chance(params, opt.seed) if opt.prune == 'random' else
                  channels.by_magnitude(params))
    # the part of the net's present multiply-adds, predictors of gates included
    now = facts.multiply_adds(f, gates.without_gates(params, static_only=True), size)
    target = min(1., opt.macs_target ** progress * (whole / now))
    params = mask_to_target(f, params, scores, size, target, opt.round_channels)
    if opt.prune == 'afs':
        params = gates.with_density(params, opt.density ** progress)
    left = facts.multiply_adds(f, gates.compact(params), size) / whole
    print(f'{left:.3f} of the multiply-adds are left')
    if opt.prune == 'afs':
        on, dynamic = (int(sum(params[f'{base}.gate.{k}'].sum() for base in gates.gates(params)))
                       for k in ('mask', 'dynamic'))
        print(f'the density is {opt.density ** progress:.2f}; of {on} gates {dynamic} differ from '
              f'image to image')
    return params


def mask_to_target(f, params, scores, size, target, multiple=1):
    """Return the net with the lowest-scoring trained channels masked, as `channels.to_target` says.
    `target` is the part of its multiply-adds to keep; those of dynamic gates count, those of static
    ones do not. Masked channels stay masked."""
    scores = channels.of_trained(params, channels.masked_lowest(params, scores))
    net = gates.without_gates(params, static_only=True)
    return channels.masked(params, channels.to_target(f, net, scores, size, target, multiple))


# ---- what pruning has given ---------------------------------------------------------------------

def sizes(opt, lines, f, params, size, images):
    """Return what the last epoch's line of the log says of the masked student in `params`; {} for
    other lines. Multiply-adds of an image of size x size pixels: of the net without pruning, of the
    pruned net, and of that less what gates turn off, the mean over `images`; parameters of the
    pruned net."""
    if not opt.prune or lines[-1]['epoch'] < opt.epochs:
        return {}
    student = utils.without_prefix(params, 'student.')
    small = gates.compact(student)
    count, macs = facts.size_of(f, small, size)
    inputs = (x for x, _ in images.batches())
    return {'multiply_adds_before': facts.multiply_adds(f, gates.without_gates(student), size),
            'multiply_adds': macs, 'n_parameters_cut': count,
            'multiply_adds_dynamic': gates.dynamic_macs(f, small, inputs, size)}


def images_per_second(opt, device, f, nets, size, batch=32):
    """Measure how fast nets {name: params} of one function are in evaluation, on batches of images
    of size x size pixels -> {name: images/s}, medians of five rounds in which they take turns."""
    x = torch.randn(batch, 3, size, size, device=device, dtype=step.parameter_dtype(opt.dtype))
    x, timed = x.contiguous(memory_format=torch.channels_last), {}
    for name, params in nets.items():
        folded = step.on_device(folding.fold(params), opt.dtype, device, fixed=True)
        timed[name] = partial(clock.seconds, partial(step.logits_of, f, folded, x, opt.dtype), 3)
    return {k: batch / median(v) for k, v in clock.turns(timed, 5).items()}


def print_gain(opt, device, f, params, last):
    """Print what the masked net gains by pruning; `last` is the last line of the run's log."""
    size = last['input_size']
    both = {'before': gates.without_gates(params), 'after': gates.compact(params)}
    speeds, macs = images_per_second(opt, device, f, both, size), {}
    for k, v in both.items():
        count, macs[k] = facts.size_of(f, v, size)
        print(f'{k} pruning: {count:,} parameters, {macs[k]:,} multiply-adds, '
              f'{speeds[k]:.0f} images/s')
    print(f'{macs["after"] / macs["before"]:.3f} of the multiply-adds, '
          f'{speeds["after"] / speeds["before"]:.2f} times the images/s')
    if last['multiply_adds_dynamic'] != last['multiply_adds']:
        print(f'its gates leave {last["multiply_adds_dynamic"] / last["multiply_adds_before"]:.3f} '
              f'of the multiply-adds, on average over the test images, if what they turn off is '
              f'skipped')
