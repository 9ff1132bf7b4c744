"""Fine-tuning by a method: its flags, its parameter groups, what else it logs.

The loss is cross-entropy + alpha times the loss of --method (losses.py) + beta / 2 times the
squared norm of the head's parameters.
"""
from engine import flags, loop, step
from methods import attentive, domains, losses
from utils import InputError
from weights import facts

# ---- flags --------------------------------------------------------------------------------------

def add_flags(parser, frozen):
    """Add the flags of the method; `frozen`: what --freeze can name."""
    t, methods = parser.add_argument_group('method'), losses.methods_of('fine-tuning')
    undecayed = [k for k, m in methods.items() if not m.weight_decay]
    t.add_argument('--method', default='l2', choices=methods, help='what is added to the '
                   'cross-entropy: l2: weight decay alone; l2_sp: distance of the parameters from '
                   'those of the source; feature_map, delta: of the features, in delta with fixed '
                   'weights for the channels; afd, ast, act, ast_act: of the features, with '
                   'learned attention; at, kd: transfer from a fine-tuned teacher; ddc, dan: '
                   'distance between two domains')
    t.add_argument('--alpha', type=float, metavar='X', help="weight of the method's loss "
                   '(default, as in the papers: ' +
                   ', '.join(f'{k} {m.alpha:g}' for k, m in methods.items() if m.alpha) + ')')
    t.add_argument('--beta', type=float, metavar='X', help='weight decay of the head (default: ' +
                   ', '.join(f'{k} {m.beta:g}' for k, m in methods.items()) + '); that of all else '
                   f'is --weight_decay (default: 0 for {", ".join(undecayed)}, else the same)')
    t.add_argument('--head_lr_mult', default=1, type=float, metavar='X', help='learning rate of '
                   "the head, as a multiple of --lr; DAN's paper has 10")
    t.add_argument('--bottleneck', type=int, metavar='N', help='a layer of N channels before the '
                   'last one (default, as published: 256 for ddc, and dan except with alexnet)')
    t.add_argument('--dropout', default=0, type=float, metavar='P', help='probability of dropout '
                   'after the bottleneck and its ReLU; 0.5 in Transfer-Learning-Library')
    t.add_argument('--mmd', default='biased', choices=domains.ESTIMATORS, help='dan: estimate of '
                   'MMD: over all pairs of images (biased, as in DeepDA, or unbiased), or over '
                   'neighbours in the batch (linear, the default of Transfer-Learning-Library)')
    t.add_argument('--mmd_layers', default='all', choices=['all', 'bottleneck'], help='dan: '
                   "compare bottleneck and logits (of AlexNet the last three layers), as in DAN's "
                   'paper, or the bottleneck alone, as in Transfer-Learning-Library and DeepDA')
    t.add_argument('--freeze', default=[], nargs='+', choices=frozen, help='what stays as in the '
                   'source: first_group: the stem and the first group; bn: batch normalisation; '
                   'bn_statistics: only its statistics; body: all but the head')
    add_comparison_flags(t, methods)


def add_comparison_flags(t, methods):
    """Add to a group the flags of what a net is compared with, and how."""
    t.add_argument('--sp', default='conv', choices=['conv', 'all'], help='l2_sp: compare filters '
                   'and matrices, or all: biases and batch normalisation, too')
    t.add_argument('--positions', choices=['mean', 'sum'], help='mean or sum of the '
                   'squared differences of features over height and width (default: ' + '; '.join(
                       f'{how} of {", ".join(k for k, m in methods.items() if m.positions == how)}'
                       for how in ('mean', 'sum')) + ')')
    t.add_argument('--normalize_features', action='store_true', help="divide each channel's map by "
                   'its norm before features are compared')
    t.add_argument('--channel_attention', default='fc', choices=['fc', 'se'], help='afd: from each '
                   'flattened map, as in the paper (fc), or by squeeze and excitation (se)')
    t.add_argument('--fixed_attention', default='', metavar='RUN', help='afd, ast, act, ast_act: '
                   'instead of learning attention, take that of a run of the same method, the mean '
                   'over training images')
    t.add_argument('--keep_head', action='store_true', help='keep the head of --source, as '
                   "AFA's second stage (act) does with the net of its first (ast)")
    t.add_argument('--channel_weights', default='', metavar='FILE', help='delta: compute, which '
                   "writes channel_weights.json into the run's folder; or such a folder or file; "
                   'or a file of the published code')
    t.add_argument('--teacher', default='', metavar='NET', help='at, kd: the teacher, of the same '
                   'classes: a run, a file of parameters or a name, as of --source; methods that '
                   'compare features: the net to compare with instead of --source')
    t.add_argument('--temperature', default=4, type=float, metavar='X', help='temperature T of '
                   'kd; the attention transfer paper uses 4')
    t.add_argument('--at_groups', default='[-2,-1]', metavar='LIST', help='json list of the groups '
                   'that at compares, from 0; -1 is the last one (ImageNet in the paper: [-2,-1])')


def check_flags(opt):
    """Raise an InputError for options that do not go together; fill in a method's defaults."""
    methods = losses.methods_of('fine-tuning')
    of_features = [k for k, m in methods.items() if m.positions]
    meant = {'alpha': [k for k, m in methods.items() if m.losses], 'positions': of_features,
             'normalize_features': of_features, 'sp': ['l2_sp'], 'channel_attention': ['afd'],
             'fixed_attention': list(attentive.ENTRIES),
             'temperature': ['kd'], 'at_groups': ['at'], 'mmd': ['dan'], 'mmd_layers': ['dan']}
    for name, its in meant.items():
        if name in opt.given and opt.method not in its:
            raise InputError(f'--{name} has no effect with --method {opt.method}; it is for '
                             f'{", ".join(its)}')
    for name in ('alpha', 'beta', 'weight_decay', 'positions'):
        if getattr(opt, name) is None:
            setattr(opt, name, getattr(methods[opt.method], name))
    flags.check_numbers(opt, above_zero=('head_lr_mult', 'temperature'),
                        zero_or_more=('alpha', 'beta', 'bottleneck'))
    if opt.bottleneck == 0 and (opt.method == 'ddc' or opt.mmd_layers == 'bottleneck'):
        raise InputError(f'--method {opt.method} needs a --bottleneck above zero')
    if opt.bottleneck == 0 and opt.dropout:
        raise InputError('--dropout needs a --bottleneck above zero')
    if not 0 <= opt.dropout < 1:
        raise InputError(f'--dropout is {opt.dropout}: give a probability below 1')
    opt.at_groups = flags.json_list(opt.at_groups, '--at_groups', '[2,3]')


def check_sources(opt):
    """Raise an InputError for a method without what it needs, or with what it does not use."""
    method = losses.METHODS[opt.method]
    if not opt.teacher and method.needs == 'teacher':
        raise InputError(f'--method {opt.method} needs a --teacher, a net of the same classes')
    if opt.teacher and method.needs not in ('teacher', 'features'):
        raise InputError(f'--method {opt.method} uses no --teacher: omit it')
    if method.needs in ('parameters', 'features') and not opt.source:
        raise InputError(f'--method {opt.method} compares with a source: give --source')
    if method.needs == 'target' and not (opt.target or opt.shift and not opt.domain):
        raise InputError(f'--method {opt.method} adapts to a target domain: give --target, or '
                         f'--shift of shapes, without --domain')
    if bool(opt.channel_weights) != (opt.method == 'delta'):
        raise InputError('--method delta needs --channel_weights, and no other method does: '
                         'compute, or a file that such a run left')
    if not opt.source and not opt.arch:
        raise InputError('give --source, the weights to start from, or --arch, a net to initialise')
    for name in ('keep_head', 'freeze'):
        if getattr(opt, name) and not opt.source:
            raise InputError(f'--{name} is for a net that comes from a --source')


def check_shapes(opt, name, f, params, size):
    """Raise an InputError for images that are too small for a net, or --at_groups that it lacks."""
    groups = facts.count_groups(f, params, size, name) if f else 0
    right = opt.at_groups and all(type(g) is int and -groups <= g < groups for g in opt.at_groups)
    if opt.method == 'at' and not (
            right and len({g % groups for g in opt.at_groups}) == len(opt.at_groups)):
        raise InputError(f'--at_groups {opt.at_groups}: {name} has {groups} groups, 0 to '
                         f'{groups - 1}; name each once')


# ---- the schedule -------------------------------------------------------------------------------

# by default, the steps of the published code of DELTA and L2-SP, and this many passes at most,
# which none of their data sets reaches: MIT-67 has 107
STEPS, PASSES = 9000, 120


def add_schedule_flags(parser):
    """Add the flags of the schedule, those of `flags.add_schedule_flags` and fine-tuning's own."""
    s = flags.add_schedule_flags(parser)
    s.add_argument('--iterations', default=0, type=int, metavar='N', help='steps of training, '
                   f'rounded to whole epochs; 0: {STEPS:,}, but without --steps_per_epoch at most '
                   f'{PASSES} passes over the training images. Ignored if --epochs is given')
    s.add_argument('--steps_per_epoch', default=0, type=int, metavar='N', help='steps of an epoch, '
                   'at the end of which the net is tested; 0: one pass over the training images')
    s.add_argument('--schedule', default='step', choices=['step', 'exp', 'inv'], help='learning '
                   'rate: step: drops at --epoch_step; exp: decays as much, a little in each '
                   'epoch; inv: lr / (1 + lr_gamma t) ** lr_power in step t (DAN: 0.001 and 0.75)')
    s.add_argument('--lr_gamma', default=1e-3, type=float, metavar='X', help='of --schedule inv')
    s.add_argument('--lr_power', default=.75, type=float, metavar='X', help='of --schedule inv')


def set_epochs(opt, n=0):
    """Fill in the epochs that the steps make of n training images, and when the rate drops -> steps
    per epoch (0 without n and --steps_per_epoch). InputError, if they make no whole epochs."""
    steps = opt.steps_per_epoch or -(-n // opt.batch_size)
    if not opt.epochs:
        opt.iterations = opt.iterations or steps_of(opt, n)
        if opt.steps_per_epoch and opt.iterations % opt.steps_per_epoch:
            raise InputError(f'--iterations {opt.iterations} is not a multiple of '
                             f'--steps_per_epoch {opt.steps_per_epoch}')
        # of passes, as in the published code of DELTA and AFA
        one = opt.steps_per_epoch or n / opt.batch_size
        opt.epochs = max(1, round(opt.iterations / one))
    # unlike in the other scripts: after that part of the epochs, which may be few; rounded down, as
    # in the published code
    opt.epoch_step = [s if type(s) is int else 1 + max(1, int(s * opt.epochs))
                      for s in opt.epoch_step]
    return steps


def steps_of(opt, n):
    """Return the default number of steps for n training images."""
    passes = STEPS * opt.batch_size / n
    if passes <= PASSES:
        return STEPS
    print(f'{PASSES} passes over {n:,} training images are made ({STEPS:,} steps would be '
          f'{passes:,.0f}); --iterations or --epochs changes this')
    return max(1, round(PASSES * n / opt.batch_size))


def rate(opt, steps, epoch, step):
    """Return the learning rate of a step of an epoch, both from 1; an epoch has `steps`."""
    if opt.schedule == 'inv':
        return opt.lr * (1 + opt.lr_gamma * ((epoch - 1) * steps + step - 1)) ** -opt.lr_power
    if opt.schedule == 'exp':
        return opt.lr * opt.lr_decay_ratio ** ((epoch - 1) / opt.epoch_step[0])
    return loop.learning_rate(opt, epoch)


# ---- parameter groups, and what is logged -------------------------------------------------------

def parameter_groups(opt, params, head):
    """Return the `step.Group`s: the body; the head, whose learning rate is --head_lr_mult times as
    large and whose weight decay is --beta; learned attention, which does not decay."""
    learnt = [k for k, v in params.items() if v.requires_grad]
    of_head = [k for k in learnt if k.startswith(f'student.{head}.')]
    attention = [k for k in learnt if k.startswith('attention.')]
    return [step.Group([k for k in learnt if k not in {*of_head, *attention}], opt.weight_decay),
            step.Group(of_head, opt.beta, opt.head_lr_mult), step.Group(attention, 0.)]


def logged(lines):
    """Return what else the last of `lines` logs of its epoch: the accuracy of the best epoch so
    far on the test images, which is too good, and only for comparison with papers that chose the
    epoch so; with --validate that of the best epoch on the held-out images; with learned attention
    its entropy relative to uniform attention, layer by layer: near zero, it looks at one channel
    only."""
    epochs = [z for z in lines if 'epoch' in z]
    found = {'best_on_test_acc': max(z['test_acc'] for z in epochs)}
    if epochs[-1]['method'] in attentive.ENTRIES:
        loss, *found['attention_entropy'] = epochs[-1]['at_losses']
        found['at_losses'] = [loss]
    if 'val_acc' in epochs[-1]:
        best = max(epochs, key=lambda z: z['val_acc'])
        found |= {'best_on_validation_epoch': best['epoch'],
                  'best_on_validation_test_acc': best['test_acc']}
    return found
