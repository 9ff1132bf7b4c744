"""CIFAR teachers and students: wide residual networks, attention transfer and distillation.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention: Improving the Performance of
  Convolutional Neural Networks via Attention Transfer', https://arxiv.org/abs/1612.03928
  Zagoruyko & Komodakis, 'Wide Residual Networks', https://arxiv.org/abs/1605.07146

    python cifar.py --save logs/resnet_16_2_teacher --depth 16 --width 2
    python cifar.py --save logs/at_16_1_16_2 --teacher_id resnet_16_2_teacher --beta 1e+3

The second should give 7.93 % test error (table 1 of the paper; see the README for ours). Defaults
are the paper's.
"""
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

# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    parser = training.make_parser(__doc__)
    m = parser.add_argument_group('model and data')
    m.add_argument('--model', default='resnet', choices=['resnet'],
                   help='resnet: the (wide) residual net WRN-depth-width of the paper')
    m.add_argument('--depth', default=16, type=int, help='number of layers, 6n+4')
    m.add_argument('--width', default=1, type=float,
                   help='multiple of 16, 32, 64 channels in the three groups')
    m.add_argument('--dataset', default='CIFAR10', choices=datasets.NAMES,
                   help='shapes is drawn by the program; the others are downloaded if missing')
    m.add_argument('--dataroot', default='.', help='folder that holds cifar-10-batches-py or '
                   'cifar-100-python, or into which it is downloaded')
    m.add_argument('--randomcrop_pad', default=4, type=int,
                   help='pixels mirrored around an image before a random crop')
    t = parser.add_argument_group('transfer from a teacher')
    t.add_argument('--teacher_id', default='', help='a run under logs/, or the path of a run or '
                   'of a file of parameters; the teacher, its depth and width follow from it')
    t.add_argument('--alpha', default=0, type=float, help='weight of distillation (KD) against '
                   'cross-entropy, 0 to 1; the paper uses 0.9')
    t.add_argument('--temperature', default=4, type=float,
                   help='temperature T of distillation; the paper uses 4')
    t.add_argument('--beta', default=0, type=float, help='weight of the attention loss, the mean '
                   'over batch and positions of squared differences; the paper uses 1e+3')
    t.add_argument('--at_groups', default='[0,1,2]',
                   help='json list of the groups whose outputs are compared; the paper uses all')
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
    blocks_and_widths(opt.depth, opt.width)
    if (opt.alpha or opt.beta) and not opt.teacher_id:
        raise InputError('--alpha and --beta weigh what comes from a teacher: give --teacher_id')


def run_name(opt):
    """A folder name from the options that tell the experiments of the paper apart."""
    parts = [opt.dataset, opt.model, f'{opt.depth}_{opt.width:g}']
    if opt.beta:
        parts.append(f'at{opt.beta:g}')
    if opt.alpha:
        parts.append(f'kd{opt.alpha:g}')
    if opt.teacher_id:
        parts.append('from_' + re.sub(r'\W+', '_', opt.teacher_id))
    return '_'.join([*parts, f'seed{opt.seed}'])


# ---- nets ---------------------------------------------------------------------------------------

def blocks_and_widths(depth, width):
    """Of WRN-depth-width: the number of blocks in a group, and the groups' channels."""
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f'--depth {depth}: the depth of a wide residual net is 6n+4, such as '
                         f'10, 16, 22, 28 or 40')
    widths = [int(v * width) for v in (16, 32, 64)]
    if not widths[0]:
        raise InputError(f'--width {width:g} leaves no channels')
    return (depth - 4) // 6, widths


def resnet(depth, width, num_classes):
    """WRN-depth-width -> (f, params). f(inputs (B, 3, H, W), params, mode, base='') gives logits
    (B, num_classes) and the outputs of the three groups, before the next BN and ReLU."""
    n, widths = blocks_and_widths(depth, width)

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
            return z + F.conv2d(o1, params[base + '.convdim'], stride=stride)
        return z + x

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


def net_of(params, path):
    """The net whose parameters these are -> (f, number of classes); `path` is for messages."""
    n = sum(bool(re.fullmatch(r'group0\.block\d+\.conv0', k)) for k in params)
    try:
        width = params['group0.block0.conv0'].shape[0] / 16
        f, expected = resnet(6 * n + 4, width, len(params['fc.bias']))
    except (KeyError, IndexError, TypeError):
        raise InputError(f'{path} is no wide residual net; its first entries are '
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

def make_objective(opt, f_s, f_t=None):
    """The loss of a student, alone or with a teacher, as a pure function for `training.fit`:
    alpha T² KL + (1-alpha) CE + beta Σ_groups AT. On test images it is the cross-entropy."""

    def objective(params, inputs, targets, mode):
        y_s, g_s = f_s(inputs, params, mode, 'student.')
        y_s = utils.at_least_float(y_s)
        if f_t is None or not mode:
            return F.cross_entropy(y_s, targets), y_s, []
        with torch.no_grad():
            y_t, g_t = f_t(inputs, params, False, 'teacher.')
        losses = [utils.at_loss(g_s[i], g_t[i]) for i in opt.at_groups]
        loss = utils.distillation(y_s, utils.at_least_float(y_t), targets,
                                  opt.temperature, opt.alpha)
        return loss + opt.beta * sum(losses), y_s, losses

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
    f_s, student = resnet(opt.depth, opt.width, num_classes)
    params = {**utils.with_prefix(training.on_device(student, opt, device), 'student.'),
              **utils.with_prefix(teacher, 'teacher.')}
    objective = make_objective(opt, f_s, f_t)
    training.fit(opt, checkpoint, lines, torch.compile(objective) if opt.compile else objective,
                 params, train, test, num_classes, device)


def main(argv=None):
    opt = parse(argv)
    device = training.set_up(opt)
    checkpoint, lines = runs.previous(opt)
    if not checkpoint or checkpoint['epoch'] < opt.epochs:
        train(opt, device, checkpoint, lines)
    runs.finish(opt)


if __name__ == '__main__':
    training.run(main)
