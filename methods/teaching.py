"""Training a student with a teacher: what cifar.py and imagenet.py share, from flags to training.

The loss of a student is CE + alpha (T² KL - CE) + beta times the sum of the losses of --method, in
from_teacher.py; before --transfer_from it is CE.
"""
import math
import re

import torch

import utils
from engine import flags, loop, runs, step
from methods import gates, losses
from system import processes
from utils import InputError
from weights import architecture, facts, folding, store

DECAYS = ('constant', 'linear', 'cosine', 'step')


# ---- flags --------------------------------------------------------------------------------------

def add_flags(parser, teacher, teacher_help, at_groups, groups_help):
    """Add the flags of a transfer from a teacher, which the flag `teacher` names; at_groups: the
    default of --at_groups; groups_help: what its help says of that."""
    t = parser.add_argument_group('transfer from a teacher')
    t.add_argument(f'--{teacher}', default='', metavar='NET', help=teacher_help)
    t.add_argument('--alpha', default=0, type=float, metavar='X', help='weight of distillation '
                   '(KD) against cross-entropy, 0 to 1; the paper uses 0.9')
    t.add_argument('--temperature', default=4, type=float, metavar='X', help='temperature T of '
                   'distillation; the paper uses 4')
    t.add_argument('--beta', default=0, type=float, metavar='X', help='weight of the loss that '
                   '--method names; the paper uses 1e+3 for at')
    t.add_argument('--beta_decay', default='auto', choices=['auto', *DECAYS], help='how beta '
                   'decays from epoch to epoch: to zero (linear, cosine), or with the learning '
                   'rate (step); auto: linear for AT+KD and f_actt, else constant')
    t.add_argument('--method', default='at', choices=losses.methods_of('teaching'), help='what is '
                   'matched: at: attention maps; f_actt: full activations; grad_at: gradients with '
                   'respect to the input; or, without a teacher, kept small: min_l2: that '
                   "gradient's norm; symmetry: its change under a flip")
    t.add_argument('--at_groups', default=at_groups, metavar='LIST', help='json list of the groups '
                   f'whose outputs at and f_actt compare; {groups_help}')
    t.add_argument('--at_map', default='sum2', choices=utils.MAPPINGS, help='attention map that at '
                   'compares: F_sum, F²_sum, F⁴_sum or F¹_max of the paper')
    t.add_argument('--at_mode', default='code', choices=['code', 'paper'], help='code: mean over '
                   'batch and positions of squared differences, as published; paper: Eq. 2')
    t.add_argument('--transfer_from', default=1, type=epoch, metavar='EPOCH', help='train the '
                   'student alone before this epoch; below 1: a fraction of --epochs. The paper '
                   'has 60 of 100 on ImageNet')


def epoch(text):
    """Convert the text of --transfer_from to a number. ValueError, if it is not an epoch."""
    value = float(text) if '.' in text else int(text)
    if not flags.is_epoch(value):
        raise ValueError
    return value


def check_flags(opt, teacher, groups):
    """Raise an InputError for invalid options, alone, together or for nets of `groups` groups; make
    a list of --at_groups, resolve --beta_decay and --transfer_from. `teacher`: the flag that names
    the teacher."""
    chosen, possible = flags.json_list(opt.at_groups, '--at_groups', '[0,1,2]'), range(groups)
    if not chosen or not all(type(g) is int and chosen.count(g) == (g in possible) for g in chosen):
        raise InputError(f'--at_groups {opt.at_groups}: choose from '
                         f'{", ".join(map(str, possible))}, each once')
    opt.at_groups = chosen
    if not 0 <= opt.alpha <= 1:
        raise InputError(f'--alpha is {opt.alpha}: give a number from 0 to 1')
    flags.check_numbers(opt, above_zero=['temperature'], zero_or_more=['beta'])
    given = getattr(opt, teacher)
    if opt.method != 'at' and not opt.beta:
        raise InputError(f'--method {opt.method} has no effect without --beta, its weight')
    if losses.METHODS[opt.method].twice and opt.compile:
        raise InputError(f'--method {opt.method} differentiates twice: omit --compile')
    alone = losses.METHODS[opt.method].needs != 'teacher' and not opt.alpha
    if (opt.alpha or opt.beta) and not alone and not given:
        raise InputError(f'--alpha and --beta have no effect without a teacher: give --{teacher}')
    if alone and given:
        raise InputError(f'--method {opt.method} needs no teacher: omit --{teacher}, or add '
                         f'--alpha')
    if opt.beta_decay == 'auto':
        decays = opt.method == 'f_actt' or opt.method == 'at' and opt.alpha and opt.beta
        opt.beta_decay = 'linear' if decays else 'constant'
    opt.transfer_from = flags.whole_epoch(opt.transfer_from, opt.epochs)
    if opt.transfer_from > 1 and not (given and (opt.alpha or opt.beta)):
        raise InputError(f'--transfer_from has no effect without a teacher: give --{teacher}, '
                         f'and --alpha or --beta')
    if opt.transfer_from > opt.epochs:
        raise InputError(f'--transfer_from {opt.transfer_from}: there are only {opt.epochs} epochs')


def run_name(opt, parts, usual, teacher):
    """Make the name of a run's folder from the options that tell experiments of the paper apart:
    the script's own `parts`, method and weights of the transfer, options that are not the `usual`
    ones ({name: value}), the teacher, the seed."""
    parts = [*parts, *[f'{opt.method}{opt.beta:g}'] * bool(opt.beta),
             *[f'kd{opt.alpha:g}'] * bool(opt.alpha), *flags.unusual(opt, usual),
             *[f'from_{teacher}'] * bool(teacher), f'seed{opt.seed}']
    return re.sub(r'[^\w.]+', '_', '_'.join(parts))


# ---- what is minimised --------------------------------------------------------------------------

def beta_in(opt, epoch):
    """Return the weight of the method's loss in an epoch, counted from 1: zero before
    --transfer_from, then --beta, which decays by --beta_decay."""
    first = opt.transfer_from
    if epoch < first:
        return 0.
    left = 1 - (epoch - first) / (opt.epochs + 1 - first)
    return opt.beta * {'constant': 1, 'linear': left, 'cosine': (1 - math.cos(math.pi * left)) / 2,
                       'step': loop.learning_rate(opt, epoch) / opt.lr}[opt.beta_decay]


def student_objective(opt, f_s, f_t=None):
    """Make the objective of a student: --alpha times KD, and --method with the weight of the epoch;
    without a teacher f_t, only what needs none."""
    terms = [('kd', opt.alpha)] * bool(opt.alpha) + [(opt.method, None)] * bool(opt.beta)
    terms = [(k, v) for k, v in terms if f_t or losses.METHODS[k].needs != 'teacher']
    return losses.make_objective(opt, f_s, f_t, terms=terms)


def regressors(f_s, student, f_t, teacher, size, groups):
    """Draw 1x1 convolutions from the student's to the teacher's channels, for those of the `groups`
    in which they differ, by images of size x size pixels -> {'regressor.group0': filters, ...}."""
    g_s, g_t = (f(*facts.on_meta(params, size), False)[1]
                for f, params in ((f_s, student), (f_t, teacher)))
    return {f'regressor.group{i}': utils.conv_params(x.shape[1], y.shape[1]).requires_grad_()
            for i, (x, y) in enumerate(zip(g_s, g_t, strict=True))
            if i in groups and x.shape[1] != y.shape[1]}


# ---- the training of a student ------------------------------------------------------------------

def load_net(name, functions, any_head=False, known=store.KNOWN):
    """Load the net of a run, a file of parameters or a name among `known` -> (f, number of classes,
    params, path), where f(inputs, params, mode, base='', taps=None) gives logits and groups;
    `functions` as for `architecture.net_of`. Channels that a run has masked are cut out. With
    `any_head`, a net that lacks its head gets one of a single class, of zeros, to be replaced.
    InputError, if there is no such net, or it is none of the functions'."""
    with processes.first_alone():        # it may have to be downloaded
        path = store.locate(name, known)
    params = store.read_params(path)
    if any_head:
        params = store.with_some_head(params, architecture.architecture_of(params).head)
    f, classes = architecture.net_of(functions, params, path)   # before anything relies on shapes
    return f, classes, gates.compact(params), path


def load_teacher(name, functions, known):
    """Do what `load_net` does, but without a `name` give None, 0, {} and None."""
    return load_net(name, functions, known=known) if name else (None, 0, {}, None)


def check_classes(name, outputs, classes, where):
    """Raise an InputError, if a teacher `name` has other classes than the data set `where`."""
    if name and outputs != classes:
        raise InputError(f'the teacher {name} has {outputs} classes, {where} has {classes}')


def make_training(opt, device, checkpoint, lines, make_net, teacher, train, test, classes, size):
    """Make the `loop.Training` of the net that make_net() gives, by --method from `teacher`: its
    name, f and params, whose batch normalisation is folded here; of none '', None and {}.

    checkpoint, lines: what a run continues from; train, test: `data.arrays.Images` of size x size
    pixels. InputError, if these are too small for one of the nets.
    """
    name, f_t, teacher = teacher
    generator = torch.Generator().manual_seed(opt.seed)
    with runs.drawing_from(generator):
        f_s, student = make_net()
    if f_t:
        facts.count_groups(f_t, teacher, size, f'the teacher {name}')
    facts.count_groups(f_s, student, size, 'the net')
    params = {}
    if opt.method == 'f_actt':
        # from a generator of their own: the images come in the same order as without
        with runs.drawing_from(torch.Generator().manual_seed(opt.seed)):
            params = regressors(f_s, student, f_t, teacher, size, opt.at_groups)
    if f_t:
        teacher = step.on_device(folding.fold(teacher), opt.dtype, device, fixed=True)
        error, _ = step.test_errors(f_t, teacher, test, opt.dtype, device)
        print(f'teacher {name}: {loop.tested_on(vars(opt))} error {error:.2f} %')
        if not (opt.alpha or opt.beta):
            print(f'the teacher {name} has no effect: --alpha and --beta are both zero')
    params = {**utils.with_prefix(step.on_device(student, opt.dtype, device), 'student.'),
              **step.on_device(params, opt.dtype, device),
              **utils.with_prefix(teacher, 'teacher.')}
    compiled = torch.compile if opt.compile else lambda objective: objective
    taught = compiled(student_objective(opt, f_s, f_t))
    alone = compiled(losses.make_objective(opt, f_s)) if opt.transfer_from > 1 else taught
    state = step.new_state(taught, params, opt.dtype, opt.weight_decay, nesterov=opt.nesterov)
    return loop.Training(
        opt, state, train, test, classes, generator, checkpoint, lines,
        weight=lambda epoch: beta_in(opt, epoch),
        objective=lambda epoch: alone if epoch < opt.transfer_from else taught,
        is_random=facts.is_random(f_s, student, size, opt.batch_size // processes.world()))
