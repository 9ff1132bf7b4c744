"""CIFAR teachers and students: attention transfer and distillation of WRN and NIN.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention: Improving the Performance of
  Convolutional Neural Networks via Attention Transfer', https://arxiv.org/abs/1612.03928
  Zagoruyko & Komodakis, 'Wide Residual Networks', https://arxiv.org/abs/1605.07146

    python cifar.py --save logs/resnet_16_2_teacher --depth 16 --width 2
    python cifar.py --save logs/at_16_1_16_2 --teacher_id resnet_16_2_teacher --beta 1e+3

The second should give 7.93 % test error (table 1 of the paper; see the README for ours). Defaults
are the paper's.
"""
import math
import pathlib
import re

import torch
import torch.nn.functional as F

import data
import datasets
import runs
import training
import utils
import weights
from utils import InputError

# options that a run's name leaves out where they are these
USUAL = {'at_groups': [0, 1, 2], 'at_map': 'sum2', 'at_mode': 'code', 'beta_decay': 'constant',
         'randomcrop_pad': 4}
DECAYS = ('constant', 'linear', 'cosine', 'step')


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    parser = training.make_parser(__doc__)
    m = parser.add_argument_group('model and data')
    m.add_argument('--model', default='resnet', choices=['resnet', 'nin'],
                   help='resnet: WRN-depth-width; nin: network in network of nine convolutions')
    m.add_argument('--depth', default=16, type=int, help='number of layers of resnet, 6n+4')
    m.add_argument('--width', default=1, type=float, help='resnet: multiple of 16, 32, 64 channels '
                   'in the three groups; nin: 1 is NIN-wide, 0.5 NIN-thin')
    m.add_argument('--no_bn', action='store_true', help='nin without batch normalisation')
    m.add_argument('--no_pool_relu', action='store_true',
                   help='nin without the ReLU before each pooling')
    m.add_argument('--dataset', default='CIFAR10', choices=datasets.NAMES,
                   help='shapes is drawn by the program; the others are downloaded if missing')
    m.add_argument('--dataroot', default='.', help='folder that holds cifar-10-batches-py or '
                   'cifar-100-python, or into which it is downloaded')
    m.add_argument('--randomcrop_pad', default=4, type=int,
                   help='pixels mirrored around an image before a random crop; 0: flips only')
    t = parser.add_argument_group('transfer from a teacher')
    t.add_argument('--teacher_id', default='', help='a run under logs/, or the path of a run or '
                   'of a file of parameters; the teacher, its depth and width follow from it')
    t.add_argument('--alpha', default=0, type=float, help='weight of distillation (KD) against '
                   'cross-entropy, 0 to 1; the paper uses 0.9')
    t.add_argument('--temperature', default=4, type=float,
                   help='temperature T of distillation; the paper uses 4')
    t.add_argument('--beta', default=0, type=float, help='weight of the loss that --method names; '
                   'the paper uses 1e+3 for at')
    t.add_argument('--beta_decay', default='auto', choices=['auto', *DECAYS],
                   help='of beta, from epoch to epoch: to zero (linear, cosine), or with the '
                   'learning rate (step); auto: linear for AT+KD and f_actt, else constant')
    t.add_argument('--method', default='at', choices=METHODS, help='at: attention maps; f_actt: '
                   'full activations; grad_at: gradients with respect to the input; and without '
                   "a teacher min_l2: that gradient's norm; symmetry: its change under a flip")
    t.add_argument('--at_groups', default='[0,1,2]', help='json list of the groups whose outputs '
                   'are compared by at and f_actt; the paper uses all')
    t.add_argument('--at_map', default='sum2', choices=utils.MAPPINGS, help='attention map of at: '
                   'F_sum, F²_sum, F⁴_sum or F¹_max of the paper')
    t.add_argument('--at_mode', default='code', choices=['code', 'paper'], help='code: mean over '
                   'batch and positions of squared differences, as published; paper: Eq. 2')
    training.add_flags(parser, batch_size=128, lr=.1, epochs=200, weight_decay=5e-4,
                       epoch_step='[60,120,160]', lr_decay_ratio=.2)
    opt = parser.parse_args(argv)
    training.check_flags(opt)
    check_flags(opt)
    opt.save = opt.save or f'logs/{run_name(opt)}'
    return opt


def check_flags(opt):
    groups = training.json_list(opt.at_groups, '--at_groups', '[0,1,2]')
    if not groups or not all(type(g) is int and 0 <= g <= 2 for g in groups):
        raise InputError(f'--at_groups {opt.at_groups}: choose from 0, 1 and 2')
    opt.at_groups = groups
    if not 0 <= opt.alpha <= 1:
        raise InputError(f'--alpha is {opt.alpha}: give a number from 0 to 1')
    training.check_numbers(opt, above_zero=('temperature', 'width'),
                           zero_or_more=('beta', 'randomcrop_pad'))
    if opt.model == 'resnet':
        blocks_in_group(opt.depth)
        scaled(WRN_CHANNELS, opt.width)
        if opt.no_bn or opt.no_pool_relu:
            raise InputError('--no_bn and --no_pool_relu are variants of --model nin')
    else:
        scaled(NIN_CHANNELS, opt.width)
    if opt.method != 'at' and not opt.beta:
        raise InputError(f'--method {opt.method} has no effect without --beta, its weight')
    if opt.method in GRADIENT_METHODS and opt.compile:
        raise InputError(f'--method {opt.method} differentiates twice, which --compile cannot')
    alone = opt.method in ('min_l2', 'symmetry') and not opt.alpha
    if (opt.alpha or opt.beta) and not alone and not opt.teacher_id:
        raise InputError('--alpha and --beta weigh what comes from a teacher: give --teacher_id')
    if alone and opt.teacher_id:
        raise InputError(f'--method {opt.method} needs no teacher: leave --teacher_id out, or add '
                         f'--alpha')
    if opt.beta_decay == 'auto':
        decays = opt.method == 'f_actt' or opt.method == 'at' and opt.alpha and opt.beta
        opt.beta_decay = 'linear' if decays else 'constant'


def run_name(opt):
    """A folder name from the options that tell the experiments of the paper apart."""
    size = f'{opt.depth}_{opt.width:g}' if opt.model == 'resnet' else f'{opt.width:g}'
    parts = [opt.dataset, opt.model, size]
    parts += [name for name in ('no_bn', 'no_pool_relu') if getattr(opt, name)]
    if opt.beta:
        parts.append(f'{opt.method}{opt.beta:g}')
    if opt.alpha:
        parts.append(f'kd{opt.alpha:g}')
    parts += [f'{name}{getattr(opt, name)}' for name, usual in USUAL.items()
              if getattr(opt, name) != usual]
    if opt.teacher_id:
        parts.append(f'from_{opt.teacher_id}')
    return re.sub(r'[^\w.]+', '_', '_'.join([*parts, f'seed{opt.seed}']))


# ---- nets ---------------------------------------------------------------------------------------

WRN_CHANNELS = (16, 32, 64)                                     # of the groups, at width 1
NIN_CHANNELS = (192, 160, 96, 192, 192, 192, 192, 192, 192)     # of the convolutions, at width 1


def scaled(channels, width):
    """`channels` times `width`, rounded down."""
    widths = [int(c * width + 1e-9) for c in channels]
    if not all(widths):
        raise InputError(f'--width {width:g} leaves no channels')
    return widths


def width_of(channels, widths):
    """The width that scales `channels` to `widths`."""
    return max(w / c for w, c in zip(widths, channels, strict=True))


def blocks_in_group(depth):
    """Of WRN-depth."""
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f'--depth {depth}: the depth of a wide residual net is 6n+4, such as '
                         f'10, 16, 22, 28 or 40')
    return (depth - 4) // 6


def resnet(depth, width, num_classes):
    """WRN-depth-width -> (f, params). f(inputs (B, 3, H, W), params, mode, base='') gives logits
    (B, num_classes) and the outputs of the three groups, before the next BN and ReLU."""
    n, widths = blocks_in_group(depth), scaled(WRN_CHANNELS, width)

    def gen_block_params(ni, no):
        return {
            'bn0': utils.bnparams(ni),
            'conv0': utils.conv_params(ni, no, 3),
            'bn1': utils.bnparams(no),
            'conv1': utils.conv_params(no, no, 3),
            'convdim': utils.conv_params(ni, no, 1) if ni != no else None,
        }

    def gen_group_params(ni, no):
        return {f'block{i}': gen_block_params(no if i else ni, no) for i in range(n)}

    params = utils.flatten({
        'conv0': utils.conv_params(3, 16, 3),
        'group0': gen_group_params(16, widths[0]),
        'group1': gen_group_params(widths[0], widths[1]),
        'group2': gen_group_params(widths[1], widths[2]),
        'bn': utils.bnparams(widths[2]),
        'fc': utils.linear_params(widths[2], num_classes),
    })
    utils.set_requires_grad_except_bn_(params)

    def block(x, params, base, mode, stride):
        o1 = F.relu(utils.batch_norm(x, params, base + '.bn0', mode), inplace=True)
        y = F.conv2d(o1, params[base + '.conv0'], stride=stride, padding=1)
        o2 = F.relu(utils.batch_norm(y, params, base + '.bn1', mode), inplace=True)
        z = F.conv2d(o2, params[base + '.conv1'], padding=1)
        if base + '.convdim' in params:
            x = F.conv2d(o1, params[base + '.convdim'], stride=stride)
        return z.add_(x)

    def group(o, params, base, mode, stride):
        for i in range(n):
            o = block(o, params, f'{base}.block{i}', mode, 1 if i else stride)
        return o

    def f(inputs, params, mode, base=''):
        x = F.conv2d(inputs, params[base + 'conv0'], padding=1)
        g0 = group(x, params, base + 'group0', mode, 1)
        g1 = group(g0, params, base + 'group1', mode, 2)
        g2 = group(g1, params, base + 'group2', mode, 2)
        o = F.relu(utils.batch_norm(g2, params, base + 'bn', mode), inplace=True)
        o = F.adaptive_avg_pool2d(o, 1).flatten(1)
        return F.linear(o, params[base + 'fc.weight'], params[base + 'fc.bias']), (g0, g1, g2)

    return f, params


def nin(width, num_classes, bn=True, pool_relu=True):
    """Network in network: three groups of a 5x5 (3x3 in the last) and two 1x1 convolutions.

    -> (f, params), as `resnet`; width 1 is NIN-wide, .5 NIN-thin. The groups' outputs are what is
    pooled. The parameters say what f computes: a layer with `bias` has no BN, and one that is
    called `linear` (the last of a group, where `pool_relu` is False) no ReLU.
    """
    layers = ('layer0', 'layer1', 'layer2' if pool_relu else 'linear')
    widths = scaled(NIN_CHANNELS, width)

    def gen_layer_params(ni, no, k):
        norm = {'bn': utils.bnparams(no)} if bn else {'bias': torch.zeros(no)}
        return {'conv': utils.conv_params(ni, no, k), **norm}

    def gen_group_params(i, k):
        channels = [3, *widths][3 * i:3 * i + 4]
        return {name: gen_layer_params(ni, no, k) for name, ni, no, k in
                zip(layers, channels, channels[1:], (k, 1, 1), strict=False)}

    params = utils.flatten({
        'group0': gen_group_params(0, 5),
        'group1': gen_group_params(1, 5),
        'group2': gen_group_params(2, 3),
        'fc': utils.linear_params(widths[-1], num_classes),
    })
    utils.set_requires_grad_except_bn_(params)

    def layer(x, params, base, mode):
        weight = params[base + '.conv']
        x = F.conv2d(x, weight, params.get(base + '.bias'), padding=weight.shape[2] // 2)
        if base + '.bn.weight' in params:
            x = utils.batch_norm(x, params, base + '.bn', mode)
        return x if base.endswith('.linear') else F.relu(x, inplace=True)

    def group(o, params, base, mode):
        for name in layers:
            o = layer(o, params, f'{base}.{name}', mode)
        return o

    def f(inputs, params, mode, base=''):
        g0 = group(inputs, params, base + 'group0', mode)
        x = F.max_pool2d(g0, 3, 2, ceil_mode=True)
        g1 = group(x, params, base + 'group1', mode)
        x = F.avg_pool2d(g1, 3, 2, ceil_mode=True)
        g2 = group(x, params, base + 'group2', mode)
        o = F.adaptive_avg_pool2d(g2, 1).flatten(1)
        return F.linear(o, params[base + 'fc.weight'], params[base + 'fc.bias']), (g0, g1, g2)

    return f, params


def make_net(opt, num_classes):
    """The net that the options describe -> (f, params)."""
    if opt.model == 'nin':
        return nin(opt.width, num_classes, not opt.no_bn, not opt.no_pool_relu)
    return resnet(opt.depth, opt.width, num_classes)


def net_like(params):
    """A new net of the architecture that the parameters have -> (f, params)."""
    def channels(pattern):
        return [v.shape[0] for k, v in params.items() if re.fullmatch(pattern, k)]

    classes = len(params['fc.bias'])
    if 'group0.layer0.conv' in params:
        return nin(width_of(NIN_CHANNELS, channels(r'group\d\.\w+\.conv')), classes,
                   'group0.layer0.bn.weight' in params, 'group0.layer2.conv' in params)
    n = len(channels(r'group0\.block\d+\.conv0'))
    return resnet(6 * n + 4, width_of(WRN_CHANNELS, channels(r'group\d\.block0\.conv0')), classes)


def net_of(params, path):
    """The net whose parameters these are -> (f, number of classes); `path` is for messages."""
    try:
        f, expected = net_like(params)
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f'{path} is no net of this script; its first entries are '
                         f'{", ".join(list(params)[:3])}') from None
    weights.check_same(params, expected, path)
    return f, len(params['fc.bias'])


def load_net(name):
    """A run under logs/, a run's folder or a file of parameters -> (f, classes, params)."""
    logs = pathlib.Path('logs')
    for path in (logs / name / 'model.pt7', pathlib.Path(name) / 'model.pt7', pathlib.Path(name)):
        if path.is_file():
            params = weights.read(path)
            return *net_of(params, path), params
    known = sorted(str(p.parent.relative_to(logs)) for p in logs.glob('**/model.pt7'))
    raise InputError(f'no net {name}: it is no run under logs/ and no path. '
                     f'Runs under logs/: {", ".join(known) or "none"}')


# ---- what is minimised --------------------------------------------------------------------------

def beta_in(opt, epoch):
    """The weight of the method's loss in an epoch, counted from 1."""
    left = 1 - (epoch - 1) / opt.epochs
    return opt.beta * {'constant': 1, 'linear': left, 'cosine': (1 - math.cos(math.pi * left)) / 2,
                       'step': training.learning_rate(opt, epoch) / opt.lr}[opt.beta_decay]


def regressors(f_s, student, f_t, teacher):
    """1x1 convolutions from the student's to the teacher's channels, for the groups in which
    those differ: {'regressor.group0': (no, ni, 1, 1), ...}."""
    image = student['fc.bias'].new_zeros(1, 3, 32, 32)
    with torch.no_grad():
        g_s, g_t = f_s(image, student, False)[1], f_t(image, teacher, False)[1]
    return {f'regressor.group{i}': utils.conv_params(x.shape[1], y.shape[1]).requires_grad_()
            for i, (x, y) in enumerate(zip(g_s, g_t, strict=True)) if x.shape[1] != y.shape[1]}


# What --beta weighs. A method of your own is one more such function, and its line in METHODS:
# (options, student's function, parameters, inputs (B, 3, H, W), targets (B,), logits and groups of
# the student, the same of the teacher or (None, None)) -> list of losses, which are added.

def attention_losses(opt, f_s, params, inputs, targets, student, teacher):
    """AT, Eq. 2."""
    return [utils.at_loss(student[1][i], teacher[1][i], opt.at_map, opt.at_mode)
            for i in opt.at_groups]


def activation_losses(opt, f_s, params, inputs, targets, student, teacher):
    """F-ActT."""
    def regress(x, key):
        return F.conv2d(x, params[key]) if key in params else x

    return [utils.activation_loss(regress(student[1][i], f'regressor.group{i}'), teacher[1][i])
            for i in opt.at_groups]


def gradient(y, inputs, targets, create_graph=True):
    """J of the cross-entropy of the logits y."""
    return utils.input_gradient(F.cross_entropy(utils.at_least_float(y), targets, reduction='sum'),
                                inputs, create_graph)


def gradient_attention_loss(opt, f_s, params, inputs, targets, student, teacher):
    """Gradient-based AT, Eq. 4."""
    return [utils.gradient_loss(gradient(student[0], inputs, targets),
                                gradient(teacher[0], inputs, targets, create_graph=False))]


def gradient_penalty(opt, f_s, params, inputs, targets, student, teacher):
    """min-l2."""
    return [utils.gradient_loss(gradient(student[0], inputs, targets))]


def symmetry_norm(opt, f_s, params, inputs, targets, student, teacher):
    """Eq. 6. BN, if there is any, counts the mirrored images into its running statistics too."""
    mirrored = inputs.detach().flip(3).requires_grad_()
    y, _ = f_s(mirrored, params, True, 'student.')
    return [utils.gradient_loss(gradient(student[0], inputs, targets),
                                gradient(y, mirrored, targets).flip(3))]


METHODS = {'at': attention_losses, 'f_actt': activation_losses,
           'grad_at': gradient_attention_loss, 'min_l2': gradient_penalty,
           'symmetry': symmetry_norm}
GRADIENT_METHODS = ('grad_at', 'min_l2', 'symmetry')


def make_objective(opt, f_s, f_t=None):
    """The loss of a student, alone or with a teacher, as a pure function for `training.fit`:
    alpha T² KL + (1-alpha) CE + beta Σ losses of --method. On test images it is the
    cross-entropy."""
    twice = opt.method in GRADIENT_METHODS

    def objective(params, inputs, targets, mode, beta):
        inputs = inputs.detach().requires_grad_(twice and mode)
        y_s, g_s = f_s(inputs, params, mode, 'student.')
        y_s = utils.at_least_float(y_s)
        y_t = g_t = None
        if f_t is None or not mode:
            loss = F.cross_entropy(y_s, targets)
            if not (mode and twice):
                return loss, y_s, []
        else:
            with torch.set_grad_enabled(opt.method == 'grad_at'):
                y_t, g_t = f_t(inputs, params, False, 'teacher.')
            loss = utils.distillation(y_s, utils.at_least_float(y_t.detach()), targets,
                                      opt.temperature, opt.alpha)
        losses = METHODS[opt.method](opt, f_s, params, inputs, targets, (y_s, g_s), (y_t, g_t))
        return loss + beta * sum(losses), y_s, losses

    return objective


def train(opt, device, checkpoint, lines):
    f_t, teacher = None, {}
    if opt.teacher_id:
        f_t, teacher_classes, teacher = load_net(opt.teacher_id)
    train, test, num_classes = datasets.load(opt.dataset, opt.dataroot, opt.validate)
    if opt.teacher_id and teacher_classes != num_classes:
        raise InputError(f'the teacher {opt.teacher_id} knows {teacher_classes} classes, '
                         f'{opt.dataset} has {num_classes}')

    def batches(images, labels, **how):
        return data.epoch_batches(torch.from_numpy(images).to(device),
                                  torch.from_numpy(labels).to(device), opt.batch_size,
                                  datasets.MEAN, datasets.STD, training.parameter_dtype(opt), **how)

    train = batches(data.pad_reflect(train[0], opt.randomcrop_pad), train[1],
                    pad=opt.randomcrop_pad, shuffle=True)
    test = batches(*test)
    teacher = training.on_device(teacher, opt, device)
    if opt.teacher_id:
        print(f'teacher {opt.teacher_id}: test error '
              f'{training.test_error(opt, f_t, teacher, test, device):.2f} %')
    torch.manual_seed(opt.seed)     # again: with a teacher or without, the student starts alike
    f_s, student = make_net(opt, num_classes)
    student, helpers = training.on_device(student, opt, device), {}
    if opt.method == 'f_actt':
        with torch.random.fork_rng([]):     # the images come in the same order as without
            helpers = regressors(f_s, student, f_t, teacher)
    params = {**utils.with_prefix(student, 'student.'),
              **training.on_device(helpers, opt, device),
              **utils.with_prefix(teacher, 'teacher.')}
    objective = make_objective(opt, f_s, f_t)
    if opt.compile:
        objective = training.compiled(objective, params, device)
    training.fit(opt, checkpoint, lines, objective, params, train, test, num_classes, device,
                 lambda epoch: beta_in(opt, epoch))


def main(argv=None):
    opt = parse(argv)
    device = training.set_up(opt)
    with runs.lock(opt.save):
        checkpoint, lines = runs.previous(opt)
        if not checkpoint or checkpoint['epoch'] < opt.epochs:
            train(opt, device, checkpoint, lines)
        runs.finish(opt)


if __name__ == '__main__':
    training.run(main)
