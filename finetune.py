"""Fine-tuning of ImageNet's nets: what keeps them near their source, or draws two domains together.

  Li et al., 'DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional
  Networks', https://arxiv.org/abs/1901.09229
  Li, Grandvalet & Davoine, 'Explicit Inductive Bias for Transfer Learning with Convolutional
  Networks' (L2-SP), https://arxiv.org/abs/1802.01483
  Long et al., 'Learning Transferable Features with Deep Adaptation Networks' (DAN),
  https://arxiv.org/abs/1502.02791; Tzeng et al., 'Deep Domain Confusion' (DDC),
  https://arxiv.org/abs/1412.3474

    python finetune.py --dataset dogs --dataroot ~/dogs --source resnet101 --method delta \\
        --channel_weights compute --alpha 6.4
    python finetune.py --dataset office31 --dataroot ~/office31 --domain amazon --target webcam \\
        --source resnet50 --method dan --lr 3e-4 --schedule inv --head_lr_mult 10

Others' runs gave 11.3 % test error (DELTA, Dogs) and 15.8 % (DAN, amazon to webcam). The
loss is cross-entropy + alpha times the method's regulariser + beta / 2 times the squared norm of
the new layers. Defaults are those of the published codes of DELTA and L2-SP.
"""
import functools
import json
import pathlib
import re
from statistics import median

import numpy as np
import torch

import imagenet
import nets
import utils
from data import arrays, cifar_sets, decoded, image_files, image_sets, published
from engine import loop, processes, runs, script, step
from methods import attentive, delta, domains, gates, losses, pruning, teaching
from utils import InputError
from weights import facts, folding, formats, store
from weights.architecture import architecture_of

# options that a run's name leaves out where they are these
USUAL = {'per_class': 0, 'fraction': 0, 'validate': 0, 'lr': .01, 'head_lr_mult': 1, 'freeze': [],
         'bottleneck': None, 'keep_head': False, 'size': 0, 'crop': 'place', 'resize': 'squash',
         'box': False, 'shift': 0, 'sp': 'conv', 'normalize_features': False,
         'channel_attention': 'fc', 'mmd': 'biased', 'mmd_layers': 'all', 'dropout': 0,
         'prune': '', **pruning.DEFAULTS}
METHODS = losses.methods_of('fine-tuning')
# options that mean something for these methods alone
OF_METHODS = {'alpha': [k for k, m in METHODS.items() if m.losses],
              **dict.fromkeys(('positions', 'normalize_features'),
                              [k for k, m in METHODS.items() if m.positions]),
              'sp': ['l2_sp'], 'channel_attention': ['afd'], 'temperature': ['kd'],
              'at_groups': ['at'], **dict.fromkeys(('mmd', 'mmd_layers'), ['dan'])}


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    parser = script.make_parser(__doc__)
    add_data_flags(parser)
    add_method_flags(parser)
    pruning.add_flags(parser)
    script.add_flags(parser, batch_size=64, lr=.01, epochs=0, weight_decay=None,
                     epoch_step='[0.67]', lr_decay_ratio=.1)
    s = parser.add_argument_group('schedule, instead of --epochs')
    s.add_argument('--iterations', default=9000, type=int, metavar='N', help='steps of training, '
                   'in whole epochs; --epochs above 0 is taken instead')
    s.add_argument('--epoch_steps', default=0, type=int, metavar='N', help='steps of an epoch, '
                   'after which is tested; 0: one pass over the training images')
    s.add_argument('--schedule', default='step', choices=['step', 'exp', 'inv'], help='step: by '
                   '--epoch_step and --lr_decay_ratio; exp: the same fall, from epoch to epoch; '
                   'inv: lr / (1 + lr_gamma t) ** lr_power in step t')
    s.add_argument('--lr_gamma', default=1e-3, type=float, help='of --schedule inv')
    s.add_argument('--lr_power', default=.75, type=float, help='of --schedule inv')
    parser.set_defaults(at_map='sum2', at_mode='code')
    opt = script.parse_args(parser, argv)
    check_flags(opt)
    if opt.epochs or opt.epoch_steps:
        set_epochs(opt)
    opt.save = opt.save or ('' if opt.evaluate else f'logs/{run_name(opt)}')
    return opt


def add_data_flags(parser):
    m = parser.add_argument_group('model and data')
    m.add_argument('--arch', default='', help='net: resnet18, 34, 50, 101, mobilenet_v2, '
                   "alexnet, wrn-depth-width, cifar_resnet-depth-width; '': that of --source")
    m.add_argument('--source', default='', metavar='WEIGHTS', help='a file of parameters, a run or '
                   f"one of {', '.join(store.KNOWN)}; '' starts afresh")
    m.add_argument('--dataset', default='folder', choices=image_sets.NAMES, help='folder: train/ '
                   'and test/ or val/ of class folders; list: train.txt and test.txt, a path and a '
                   'label in each line')
    m.add_argument('--dataroot', default='.', metavar='DIR', help='folder of the data set')
    m.add_argument('--domain', default='', help='part of --dataroot: amazon, dslr or webcam of '
                   'office31, a subfolder, a list; without --target what is not trained on is the '
                   'test set')
    m.add_argument('--target', default='', metavar='DOMAIN', help='another part, all of which is '
                   'the test set, and, without its labels, what ddc and dan adapt to')
    m.add_argument('--shift', default=0, type=float, help='0 to 1: shapes of less contrast and '
                   'more noise are the target')
    m.add_argument('--per_class', default=0, type=int, metavar='N', help='train on N images of '
                   'each class, drawn by --seed')
    m.add_argument('--fraction', default=0, type=float, help='train on this part of each class, '
                   'drawn by --seed')
    m.add_argument('--download', action='store_true', help='fetch dogs, cub, caltech256 or '
                   'food101 into --dataroot first')
    image_files.add_flags(m)
    m.add_argument('--evaluate', default='', metavar='FILE', help='test this net instead of '
                   'training')
    p = parser.add_argument_group('pixels')
    p.add_argument('--size', default=0, type=int, help='height and width of the crops; 0: as '
                   "of the source, else 224, 227 of Caffe's AlexNet, 32 of nets for CIFAR")
    p.add_argument('--pixels', default='', choices=['', *nets.PIXELS], help='mean and deviation to '
                   "take off the pixels; '': the source's")
    p.add_argument('--resize', default='squash', choices=decoded.RESIZES, help='to 256 pixels (of '
                   '--size 224) before the crop: height and width, or the short side')
    p.add_argument('--crop', default='place', choices=decoded.CROPS, help='in training: of random '
                   'place, of random area and place (8 to 100 %%), both mirrored at random; centre')
    p.add_argument('--ten_crop', action='store_true', help='test on the mean of ten crops: corners '
                   'and centre, mirrored and not')
    p.add_argument('--box', action='store_true', help='cub: cut the bounding boxes out')


def add_method_flags(parser):
    t = parser.add_argument_group('method')
    t.add_argument('--method', default='l2', choices=METHODS, help='l2: weight decay; l2_sp: '
                   'distance of the parameters to the source; feature_map, delta: of the features, '
                   'the latter with fixed weights of channels; afd, ast, act: with learned '
                   'attention; at, kd: a fine-tuned teacher; ddc, dan: distance of two domains')
    t.add_argument('--alpha', type=float, help='weight of the regulariser (default: ' +
                   ', '.join(f'{k} {m.alpha:g}' for k, m in METHODS.items() if m.alpha) + ')')
    t.add_argument('--beta', type=float, help='L2 penalty on the last layer (default: ' +
                   ', '.join(f'{k} {m.beta:g}' for k, m in METHODS.items()) + '); that on all else '
                   'is --weight_decay (default: 0 of l2_sp, feature_map and delta, else the same)')
    t.add_argument('--head_lr_mult', default=1, type=float, help='learning rate of the new layers, '
                   'as a multiple of --lr')
    t.add_argument('--bottleneck', type=int, metavar='N', help='a new layer of N channels '
                   'before the last one (default: 256 of ddc, and of dan but for alexnet)')
    t.add_argument('--dropout', default=0, type=float, metavar='P', help='probability of zeros '
                   'behind the bottleneck and its ReLU; Transfer-Learning-Library has 0.5')
    t.add_argument('--mmd', default='biased', choices=domains.ESTIMATORS, help='dan: of all '
                   'pairs of images, as in DeepDA; or unbiased, or of neighbours in the batch '
                   '(linear), as in Transfer-Learning-Library, which takes the last one by default')
    t.add_argument('--mmd_layers', default='all', choices=['all', 'bottleneck'], help='dan: '
                   "bottleneck and logits (the last three layers of AlexNet), as in DAN's paper, "
                   'or the bottleneck alone, as in Transfer-Learning-Library and DeepDA')
    t.add_argument('--freeze', default=[], nargs='+', choices=nets.FROZEN, help='leave as the '
                   'source has it: stem and first group; batch normalisation, or its statistics '
                   'alone; all but the new layers')
    t.add_argument('--sp', default='conv', choices=['conv', 'all'], help='l2_sp: of filters and '
                   'matrices, or biases and batch normalisation too')
    t.add_argument('--positions', choices=['mean', 'sum'], help='of squared differences of '
                   'features over height and width (default: mean of feature_map and delta, sum of '
                   'afd, ast and act)')
    t.add_argument('--normalize_features', action='store_true', help="divide each channel's map by "
                   'its norm before features are compared')
    t.add_argument('--channel_attention', default='fc', choices=['fc', 'se'], help='afd: the '
                   "paper's, from each flattened map, or squeeze and excitation")
    t.add_argument('--keep_head', action='store_true', help='go on with the last layer of --source '
                   "too, as AFA's second stage (act) does with the net of its first (ast)")
    t.add_argument('--channel_weights', default='', metavar='FILE', help='delta: '
                   'compute, which leaves channel_weights.json in the folder of the run; or such a '
                   'file, or one of the published code')
    t.add_argument('--teacher', default='', metavar='NET', help='at, kd: a run or a file of '
                   'parameters, of the same classes')
    t.add_argument('--temperature', default=4, type=float, help='of kd')
    t.add_argument('--at_groups', default='[-2,-1]', help='json list of the groups that at '
                   'compares, from 0; -1 is the last one')


def check_flags(opt):
    """Refuse what does not go together, and fill in a method's defaults."""
    method = METHODS[opt.method]
    for name, methods in OF_METHODS.items():
        if name in opt.given and opt.method not in methods:
            raise InputError(f'--{name} means nothing for --method {opt.method}; it is for '
                             f'{", ".join(methods)}')
    for name in ('alpha', 'beta', 'weight_decay', 'positions'):
        if getattr(opt, name) is None:
            setattr(opt, name, getattr(method, name))
    script.check_flags(opt)
    script.check_numbers(
        opt, above_zero=('iterations', 'head_lr_mult', 'temperature', 'phases', 'round_channels'),
        zero_or_more=('alpha', 'beta', 'epoch_steps', 'lr_gamma', 'lr_power', 'size', 'per_class',
                      'fraction', 'delta_s'))
    pruning.check_flags(opt)
    if opt.bottleneck is not None:
        script.check_numbers(opt, zero_or_more=['bottleneck'])
    if opt.bottleneck == 0 and (opt.method == 'ddc' or opt.mmd_layers == 'bottleneck'):
        raise InputError(f'--method {opt.method} compares the bottleneck: give its channels')
    if opt.bottleneck == 0 and opt.dropout:
        raise InputError('--dropout is that of the bottleneck: give its channels')
    if not 0 <= opt.dropout < 1:
        raise InputError(f'--dropout is {opt.dropout}: give a probability below 1')
    if opt.per_class and opt.fraction or not opt.fraction < 1:
        raise InputError('--fraction is a number below 1, and not together with --per_class')
    if opt.schedule == 'exp' and len(opt.epoch_step) != 1:
        raise InputError('--schedule exp takes one epoch as --epoch_step: the fall up to there')
    if opt.box and opt.dataset != 'cub':
        raise InputError('--box is for --dataset cub, which has bounding boxes')
    opt.at_groups = script.json_list(opt.at_groups, '--at_groups', '[2,3]')
    if not (opt.evaluate or opt.check_data):
        check_method(opt, method)


def check_method(opt, method):
    if bool(opt.teacher) != (method.needs == 'teacher'):
        raise InputError('--teacher is what at and kd learn from: give it with them, and with no '
                         'other method')
    if method.needs in ('parameters', 'features') and not opt.source:
        raise InputError(f'--method {opt.method} compares with a source: give --source')
    if method.needs == 'target' and not (opt.target or opt.shift):
        raise InputError(f'--method {opt.method} adapts to a target domain: give --target, or '
                         f'--shift of shapes')
    if bool(opt.channel_weights) != (opt.method == 'delta'):
        raise InputError('--channel_weights belongs to --method delta: compute, or a file that '
                         'such a run left')
    if not opt.source and not opt.arch:
        raise InputError('give --source, the weights to start from, or --arch, to start from none')
    if opt.keep_head and not opt.source:
        raise InputError('--keep_head is for a net that comes from a --source')
    if opt.freeze and not opt.source:
        raise InputError('--freeze is for a net that comes from a --source')


def run_name(opt):
    """A folder name from the options that tell experiments apart."""
    parts = [opt.dataset, opt.domain, opt.target, opt.arch or opt.source, opt.method,
             f'{opt.alpha:g}' if opt.alpha else '', *script.unusual(opt, USUAL),
             f'seed{opt.seed}']
    return re.sub(r'[^\w.]+', '_', '_'.join(p for p in parts if p))


# ---- data ---------------------------------------------------------------------------------------

def read_sets(opt):
    """The sets that the options name -> {'train', 'validation', 'test', 'target': set or None},
    the names of the classes. A set is (files, labels, ...), arrays."""
    fetch(opt)
    train, test, target, names = image_sets.load(opt.dataset, opt.dataroot, opt.domain, opt.target,
                                                 opt.shift, opt.skip_broken)
    if opt.skip_broken:
        once = {id(s): s for s in (train, test, target) if s}   # the target may be the test set
        kept = {k: image_files.without_broken(s, opt.nthread) for k, s in once.items()}
        train, test, target = (kept.get(id(s)) for s in (train, test, target))
    if opt.per_class or opt.fraction:
        train, rest = image_sets.subset(train, opt.per_class, opt.fraction, opt.seed)
        test = rest if test is None else test
    if test is None:
        raise InputError(f'{opt.dataset} in {opt.dataroot} has no test images: give --target, or '
                         f'--per_class or --fraction, and the rest is tested on')
    validation = None
    if opt.validate:
        train, validation = cifar_sets.held_out(train, opt.validate)
    return dict(train=train, validation=validation, test=test, target=target), names


def images_of(opt, images, size, pixels, device, train=False, batch_size=0, **how):
    """`data.Images` of a set (files, labels, boxes...)."""
    files, labels, *boxes = images
    how = {'crop': opt.crop, **how} if train else {'ten': opt.ten_crop, **how}
    return decoded.decoded_images(
        files, labels, batch_size or opt.batch_size, size, *nets.PIXELS[pixels], device,
        opt.nthread, step.parameter_dtype(opt.dtype), train, resize=opt.resize,
        boxes=boxes[0] if opt.box else None, **how)


def set_epochs(opt, n=0):
    """Fill in how many epochs the steps make of n training images, and where the rate drops ->
    the steps of an epoch. --epochs or --epoch_steps make n needless for all but these."""
    steps = opt.epoch_steps or -(-n // opt.batch_size)
    if not opt.epochs:
        if opt.epoch_steps and opt.iterations % opt.epoch_steps:
            raise InputError(f'--iterations {opt.iterations} is no multiple of --epoch_steps '
                             f'{opt.epoch_steps}')
        # of passes, as in the published codes of DELTA and AFA
        one = opt.epoch_steps or n / opt.batch_size
        opt.epochs = max(1, round(opt.iterations / one))
    # unlike in the other scripts: after that part of the epochs, which may be few; rounded down, as
    # in the published codes
    opt.epoch_step = [s if type(s) is int else 1 + max(1, int(s * opt.epochs))
                      for s in opt.epoch_step]
    return steps


def rate(opt, steps):
    """The learning rate by epoch and step, both from 1; `steps`: of an epoch."""
    def at(epoch, step):
        if opt.schedule == 'inv':
            return opt.lr * (1 + opt.lr_gamma * ((epoch - 1) * steps + step - 1)) ** -opt.lr_power
        if opt.schedule == 'exp':
            return opt.lr * opt.lr_decay_ratio ** ((epoch - 1) / opt.epoch_step[0])
        return loop.learning_rate(opt, epoch)

    return at


# ---- training and evaluation --------------------------------------------------------------------

def groups_of(opt, params, head):
    """What is updated alike: the source's layers; the new ones, which have another rate and --beta
    as decay; learned attention, which does not decay."""
    learnt = [k for k, v in params.items() if v.requires_grad]
    new = [k for k in learnt if k.startswith(f'student.{head}.')]
    attention = [k for k in learnt if k.startswith('attention.')]
    return [step.Group([k for k in learnt if k not in {*new, *attention}], opt.weight_decay),
            step.Group(new, opt.beta, opt.head_lr_mult), step.Group(attention, 0.)]


def notes(lines):
    """What different ways to pick an epoch so far would report: the last one is what counts; the
    one that is best on the images held out; the one that is best on the test images, which is for
    comparison with papers that did so, and too good. And the entropy of learned attention, as a
    part of that of uniform one, layer by layer: near zero, it looks at one channel only."""
    epochs = [z for z in lines if 'epoch' in z]
    found = {'best_on_test_acc': max(z['test_acc'] for z in epochs)}
    if epochs[-1]['method'] in ('afd', 'ast', 'act'):
        loss, *found['attention_entropy'] = epochs[-1]['at_losses']
        found['at_losses'] = [loss]
    if 'val_acc' in epochs[-1]:
        best = max(epochs, key=lambda z: z['val_acc'])
        found |= {'best_on_validation_epoch': best['epoch'],
                  'best_on_validation_test_acc': best['test_acc']}
    return found


RESTORED = 512      # images for the statistics of batch normalisation that is given back
SEEN = 5000         # images, at most, for those of gates


def some_of(images, n):
    """n images of a set, or all, the same ones each time."""
    chosen = np.random.default_rng(0).permutation(len(images[1]))[:n]
    return tuple(a[chosen] for a in images)


def start_of(opt, sets, classes):
    """The net to train, from --source or random -> (f, params, size, pixels)."""
    if not opt.source:
        f, params = nets.new_net(opt.arch, classes)
        return f, params, *imagenet.input_of(opt, params, {})
    f, _, params, path = nets.load_net(opt.source, any_head=not opt.keep_head)
    params = {k: v.float() for k, v in params.items()}
    arch = architecture_of(params).arch
    if opt.arch and opt.arch != arch:
        raise InputError(f'--source {opt.source} is {arch or "another net"}, not --arch {opt.arch}')
    size, pixels = imagenet.input_of(opt, params, store.options(path))
    if arch != 'alexnet' and folding.folded(f, params):
        some = some_of(sets['train'], RESTORED)
        print(f'batch normalisation is given back to {opt.source}, with the statistics of '
              f'{len(some[1])} training images')
        images = images_of(opt, some, size, pixels, torch.device('cpu'), ten=False)
        params = folding.restore(f, params, (inputs.float() for inputs, _ in images.batches()))
    return f, params, size, pixels


def assemble(opt, f, start, head, size, pixels, device, generator):
    """All entries of a training that starts from the net (f, start) -> (function of what it is
    compared with, or None; names of the layers to look at; params). Attention is drawn from a copy
    of the generator: the images come in the order of other methods."""
    layers, plain = tapped(opt, start), start
    start = pruning.prepared(opt, f, start, size)
    compared = start if METHODS[opt.method].needs == 'parameters' else plain
    f_t, kept = reference(opt, f, compared, head, layers, pixels)
    for name, net, its in (('the net', f, start), ('its teacher', f_t, kept)):
        check_shapes(opt, name, net, its, size)
    # what is compared, not computed with, stays as exact as what is trained
    parts = {'student.': (start, False), 'teacher.': (kept, f_t is not None),
             '': (attention_of(opt, f, start, layers, size, generator.clone_state()), False)}
    parts = {prefix: step.on_device(its, opt.dtype, device, fixed)
             for prefix, (its, fixed) in parts.items()}
    return f_t, layers, {prefix + k: v for prefix, part in parts.items() for k, v in part.items()}


def check_shapes(opt, name, f, params, size):
    """Refuse images that are too small for a net, and groups that it has not."""
    groups = facts.groups_of(f, params, size, name) if f else 0
    right = opt.at_groups and all(type(g) is int and -groups <= g < groups for g in opt.at_groups)
    if opt.method == 'at' and not (
            right and len({g % groups for g in opt.at_groups}) == len(opt.at_groups)):
        raise InputError(f'--at_groups {opt.at_groups}: {name} has {groups} groups, 0 to '
                         f'{groups - 1}; name each once')


def reference(opt, f, start, head, layers, pixels):
    """What the target net, which starts as (f, start), is compared with -> (f or None, params)."""
    needs = METHODS[opt.method].needs
    if needs == 'teacher':
        f_t, outputs, params, path = nets.load_net(opt.teacher)
        teaching.check_classes(opt.teacher, outputs, len(start[head + '.weight']), 'the data set')
        its = store.options(path).get('input_pixels', pixels)
        if its != pixels:
            raise InputError(f'the teacher {opt.teacher} was trained with --pixels {its}, not '
                             f'{pixels}')
        return f_t, folding.fold(params)
    start = {k: v.detach() for k, v in start.items()}
    if needs == 'parameters':
        return None, {k: v for k, v in start.items() if not k.startswith(head + '.') and
                      not utils.is_statistic(k) and (opt.sp == 'all' or v.ndim > 1)}
    return (f, folding.fold(start, keep=layers)) if needs == 'features' else (None, {})


def weights_of_channels(opt, f, params, head, layers, batches, checkpoint):
    """DELTA's weights, computed, and then left in the run's folder for when it is continued, or
    from a file: of such a run, or of the published code, which has lists of what the loss grows by.
    """
    made = pathlib.Path(opt.save, 'channel_weights.json')
    path = made if opt.channel_weights == 'compute' else pathlib.Path(opt.channel_weights)
    if path == made and not (checkpoint and made.exists()):
        if processes.world() > 1:
            raise InputError('--channel_weights compute is work for one process: give the others '
                             'its channel_weights.json')
        found, gain = delta.channel_weights(f, params, head, layers, batches, opt.dtype)
        print(f'channel weights: {gain:.1f} times as fast as one pass through the whole net for '
              f'each channel')
        runs.write(made, json.dumps({k: v.tolist() for k, v in found.items()}).encode())
    return read_channel_weights(path, {
        k: (len(params.get(k, params.get(k + '.weight'))),) for k in layers})


def read_channel_weights(path, expected):
    """{layer: (C,)} of a file, of the shapes that are expected, {layer: shape}."""
    formats.check_regular(path)
    try:
        found = json.loads(path.read_text())
        if isinstance(found, list):
            found = {k: delta.from_growth(torch.tensor(v, dtype=torch.float)) for k, v in
                     zip(expected, found, strict=True)}
        found = {k: torch.as_tensor(v, dtype=torch.float) for k, v in found.items()}
        shapes = {k: tuple(v.shape) for k, v in found.items()}
        if not all(v.isfinite().all() for v in found.values()):
            raise ValueError('not all of them are finite')
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as e:
        raise InputError(f'cannot read the channel weights {path}: {e}') from None
    if shapes != expected:
        raise InputError(f'{path} holds channel weights of other layers: {shapes}, expected '
                         f'{expected}')
    return found


def prepare(opt, device):
    sets, names = read_sets(opt)
    steps = set_epochs(opt, len(sets['train'][1]))
    return functools.partial(make_training, opt, device, sets, len(names), steps)


def make_training(opt, device, sets, classes, steps, checkpoint, lines):
    if not (checkpoint or opt.skip_broken):     # else the first epoch would be lost to one of them
        tested = [s[0] for s in (sets['validation'], sets['test']) if s]
        image_files.check_readable(np.concatenate(tested), opt.nthread)
    generator = torch.Generator().manual_seed(opt.seed)
    with runs.drawing_from(torch.Generator().manual_seed(opt.seed)):
        start_f, start, size, pixels = start_of(opt, sets, classes)
    # for the log, and for those who use the net
    opt.input_size, opt.input_pixels, opt.steps = size, pixels, steps
    head = architecture_of(start).head
    if not opt.keep_head:
        with runs.drawing_from(generator):
            start = nets.with_new_head(start, head, classes, bottleneck_of(opt, start), opt.dropout)
    elif len(start[head + '.weight']) != classes:
        raise InputError(f'--keep_head: {opt.source} knows {len(start[head + ".weight"])} classes, '
                         f'the data set has {classes}')
    start = nets.freeze(start_f, start, opt.freeze, head)
    count = opt.epoch_steps * opt.batch_size

    def images(chosen, **how):
        return images_of(opt, chosen, size, pixels, device, **how)

    f_t, layers, params = assemble(opt, start_f, start, head, size, pixels, device, generator)
    if opt.method == 'delta':
        its = images(sets['train'], train=True, batch_size=delta.BATCH_SIZE)
        order = generator.clone_state()     # the images then come in the order of other methods
        found = weights_of_channels(opt, start_f, utils.without_prefix(params, 'student.'), head,
                                    layers, lambda: its.batches(order), checkpoint)
        params |= {f'teacher.channel_weights.{k}': v.to(device) for k, v in found.items()}
    learn = images(sets['train'], train=True, count=count)
    if METHODS[opt.method].needs == 'target':
        learn = arrays.both(learn, images(sets['target'], train=True, count=count or learn.n))
    objective = losses.make_objective(opt, nets.over_crops(start_f), f_t, layers,
                                      [(opt.method, None)])
    if opt.compile:
        objective = torch.compile(objective)
    state = step.new_state(objective, params, opt.dtype, groups=groups_of(opt, params, head))
    noted, before = removal(opt, start_f, params, size, sets, images)
    return loop.Training(
        opt, state, learn, images(sets['test']), classes, generator, checkpoint, lines,
        validation=images(sets['validation']) if opt.validate else None,
        weight=lambda epoch: opt.alpha, rate=rate(opt, steps), notes=noted, before=before,
        draws=facts.draws(start_f, start, size, opt.batch_size // processes.world()))


def removal(opt, f, params, size, sets, images):
    """`notes` and `before` of `loop.Training`, with the removal of channels."""
    def noted(lines):
        if not opt.prune or lines[-1]['epoch'] < opt.epochs:
            return notes(lines)
        student = utils.without_prefix(params, 'student.')
        tested = images(sets['test'], ten=False).batches()
        return notes(lines) | pruning.notes(f, student, size, tested)

    def before(epoch):
        seen = images(some_of(sets['train'], SEEN), ten=False).batches()
        return pruning.begin_phase(opt, f, params, epoch, size, seen)

    return noted, before


def attention_of(opt, f, params, layers, size, generator):
    """The entries of a method's learned attention to the layers; none of other methods."""
    kinds = {'afd': attentive.afd, 'ast': attentive.ast, 'act': attentive.act}
    if opt.method not in kinds:
        return {}
    kind = attentive.squeeze if opt.channel_attention == 'se' else kinds[opt.method]
    image, meta_params = facts.on_meta(params, size)
    taps = dict.fromkeys(layers)
    f(image, meta_params, False, taps=taps)
    with runs.drawing_from(generator):
        found = {f'attention.{k}': kind(*x.shape[1:]) for k, x in taps.items()}
    return {k: v.requires_grad_() for k, v in utils.flatten(found).items()}


def tapped(opt, params):
    """The names of the layers that a method looks at in a net, as `taps` has them."""
    needs = METHODS[opt.method].needs
    if needs == 'target':
        alone = opt.method == 'ddc' or opt.mmd_layers == 'bottleneck'
        return [architecture_of(params).head + '.input'] if alone else nets.last_layers(params)
    return nets.stages(params) if needs == 'features' else []


def bottleneck_of(opt, params):
    """The channels of the layer before the last one; 0 for none."""
    if opt.bottleneck is None:
        wanted = opt.method == 'ddc' or opt.dropout or opt.method == 'dan' and (
            opt.mmd_layers == 'bottleneck' or architecture_of(params).arch != 'alexnet')
        return 256 if wanted else 0
    return opt.bottleneck


def check_drawn(opt, made, path):
    """Refuse to test a run's net, of the options `made`, on images that it has learnt."""
    same = all(made.get(k) == getattr(opt, k) for k in ('dataset', 'domain'))
    drawn = {k: made.get(k) for k in ('per_class', 'fraction', 'seed')}
    if same and not opt.target and (opt.per_class or opt.fraction) and \
            any(getattr(opt, k) != v for k, v in drawn.items()):
        raise InputError(f'{path} has learnt the images that '
                         f'{" ".join(f"--{k} {v:g}" for k, v in drawn.items())} draw (all, of 0): '
                         f'give these, to test it on the rest')


def evaluate(opt, device):
    """Test a net from a file on the test images."""
    sets, names = read_sets(opt)
    f, outputs, params, path = nets.load_net(opt.evaluate)
    if outputs != len(names):
        raise InputError(f'{opt.evaluate} knows {outputs} classes, the data set has {len(names)}')
    made = store.options(path)
    check_drawn(opt, made, path)
    size, pixels = imagenet.input_of(opt, params, made)
    test = images_of(opt, sets['test'], size, pixels, device)
    params = step.on_device(params, opt.dtype, device)
    imagenet.report(opt, device, path, f, nets.over_crops(f), params, test, size, pixels)
    if gates.gates(params):
        one_crop = images_of(opt, sets['test'], size, pixels, device, ten=False).batches()
        found = gates.dynamic_macs(f, params, (inputs for inputs, _ in one_crop), size)
        print(f'its gates leave {found:,.0f} multiply-adds, the mean over these images')


def report(opt, device):
    """Print what a run that is done has given: the best epoch, the removal of channels."""
    last = runs.read_log(pathlib.Path(opt.save, 'log.txt'))[-1]
    if opt.prune:
        report_removal(opt, device, last)
    print(f'for comparison with papers only: {100 - last["best_on_test_acc"]:.2f} % is the lowest '
          f'test error of all epochs')


def report_removal(opt, device, last):
    """Print what the removal of channels has given; `last` is the last line of the run's log."""
    path, size = pathlib.Path(opt.save, 'model.pt7'), last['input_size']
    params = store.read(path)
    f, _ = nets.net_of(params, path)
    both = {'before': gates.plain(params), 'after': gates.removed(params)}
    speeds = pruning.speeds(opt, device, f, both, size)
    counts = {k: pruning.size_of(f, v, size) for k, v in both.items()}
    for k, (count, macs) in counts.items():
        print(f'{k} removal: {count:,} parameters, {macs:,} multiply-adds, '
              f'{median(speeds[k]):.0f} images/s')
    part, speed = (after / before for before, after in (
        [macs for _, macs in counts.values()], map(median, speeds.values())))
    print(f'{part:.3f} of the multiply-adds, {speed:.2f} times the images/s')
    if last['multiply_adds_dynamic'] != last['multiply_adds']:
        print(f'its gates leave {last["multiply_adds_dynamic"] / last["multiply_adds_before"]:.3f} '
              f'of the multiply-adds, the mean over the test images, if what they turn off is '
              f'skipped')


def fetch(opt):
    """Download the data set, if that is asked for."""
    if opt.download:
        with processes.first_alone():
            published.download(opt.dataset, opt.dataroot)


def check_data(opt, device):
    fetch(opt)
    return image_sets.check_data(opt.dataset, opt.dataroot, opt.domain, opt.target, opt.shift,
                                 opt.nthread)


def instead(opt):
    """What is to be done instead of training."""
    if opt.check_data:
        return check_data
    return evaluate if opt.evaluate else None


def main(argv=None):
    script.main(argv, __file__, parse, prepare, instead,
                lambda opt, params: gates.removed(params) if opt.prune else params, report)


if __name__ == '__main__':
    script.run(main)
