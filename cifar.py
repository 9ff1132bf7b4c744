"""CIFAR teachers and students: attention transfer and distillation of WRN and NIN.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention: Improving the Performance of
  Convolutional Neural Networks via Attention Transfer', https://arxiv.org/abs/1612.03928
  Zagoruyko & Komodakis, 'Wide Residual Networks', https://arxiv.org/abs/1605.07146

    python cifar.py --save logs/resnet_16_2_teacher --depth 16 --width 2
    python cifar.py --save logs/at_16_1_16_2 --teacher_id resnet_16_2_teacher --beta 1e+3

The second should give 7.93 % test error (table 1 of the paper; see results/ for ours). Defaults
are the paper's.
"""
import functools
import re

import torch
import torch.nn.functional as F

import utils
from data import arrays, cifar_sets
from engine import processes, script, step
from methods import teaching
from utils import InputError
from weights import facts, store

# options that a run's name leaves out where they are these
USUAL = {'at_groups': [0, 1, 2], 'at_map': 'sum2', 'at_mode': 'code', 'beta_decay': 'constant',
         'randomcrop_pad': 4}


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    parser = script.make_parser(__doc__)
    m = parser.add_argument_group('model and data')
    m.add_argument('--model', default='resnet', choices=NETS,
                   help='resnet: WRN-depth-width; nin: network in network of nine convolutions')
    m.add_argument('--depth', default=16, type=int, help='number of layers of resnet, 6n+4')
    m.add_argument('--width', default=1, type=float, help='resnet: multiple of 16, 32, 64 channels '
                   'in the three groups; nin: 1 is NIN-wide, 0.5 NIN-thin')
    m.add_argument('--no_bn', action='store_true', help='nin without batch normalisation')
    m.add_argument('--no_pool_relu', action='store_true',
                   help='nin without the ReLU before each pooling')
    m.add_argument('--dataset', default='CIFAR10', choices=cifar_sets.SETS,
                   help='shapes is drawn by the program; the others are downloaded if missing')
    m.add_argument('--dataroot', default='.', help='folder that holds cifar-10-batches-py or '
                   'cifar-100-python, or into which it is downloaded')
    m.add_argument('--randomcrop_pad', default=4, type=int,
                   help='pixels mirrored around an image before a random crop; 0: flips only')
    teaching.add_flags(parser, 'teacher_id', 'a run under logs/, or the path of a run or of a '
                           'file of parameters; the teacher, its depth and width follow from it',
                           '[0,1,2]', 'the paper uses all')
    script.add_flags(parser, batch_size=128, lr=.1, epochs=200, weight_decay=5e-4,
                     epoch_step='[60,120,160]', lr_decay_ratio=.2)
    opt = script.parse_args(parser, argv)
    script.check_flags(opt)
    check_flags(opt)
    script.whole_epochs(opt)
    opt.save = opt.save or f'logs/{run_name(opt)}'
    return opt


def check_flags(opt):
    script.check_numbers(opt, above_zero=['width', 'epochs'], zero_or_more=['randomcrop_pad'])
    teaching.check_flags(opt, 'teacher_id', groups=3)
    if opt.model != 'nin' and (opt.no_bn or opt.no_pool_relu):
        raise InputError('--no_bn and --no_pool_relu are variants of --model nin')
    if opt.model == 'resnet':
        blocks_in_group(opt.depth)
        scaled(WRN_CHANNELS, opt.width)
    if opt.model == 'nin':
        scaled(NIN_CHANNELS, opt.width)


def run_name(opt):
    """A folder name from the options that tell the experiments of the paper apart."""
    size = f'{opt.depth}_{opt.width:g}' if opt.model == 'resnet' else f'{opt.width:g}'
    parts = [opt.dataset, opt.model, size]
    parts += [name for name in ('no_bn', 'no_pool_relu') if getattr(opt, name)]
    parts += teaching.name_parts(opt, USUAL)
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
    """WRN-depth-width -> (f, params). f(inputs (B, 3, H, W), params, mode, base='', taps=None)
    gives logits (B, num_classes) and the outputs of the three groups, before the next BN and ReLU.
    """
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

    def block(x, params, base, mode, stride, taps):
        o1 = F.relu(utils.norm(x, params, base + '.bn0', mode, taps), inplace=True)
        y = utils.conv2d(o1, params, base + '.conv0', stride, taps=taps)
        o2 = F.relu(utils.norm(y, params, base + '.bn1', mode, taps), inplace=True)
        z = utils.conv2d(o2, params, base + '.conv1', taps=taps)
        if base + '.convdim' in params:
            x = utils.conv2d(o1, params, base + '.convdim', stride, taps=taps)
        return z.add_(x)

    def group(o, params, base, mode, stride, taps):
        for i in range(n):
            o = block(o, params, f'{base}.block{i}', mode, 1 if i else stride, taps)
        return o

    def f(inputs, params, mode, base='', taps=None):
        x = utils.conv2d(inputs, params, base + 'conv0', taps=taps)
        g0 = group(x, params, base + 'group0', mode, 1, taps)
        g1 = group(g0, params, base + 'group1', mode, 2, taps)
        g2 = group(g1, params, base + 'group2', mode, 2, taps)
        o = F.relu(utils.norm(g2, params, base + 'bn', mode, taps), inplace=True)
        o = F.adaptive_avg_pool2d(o, 1).flatten(1)
        return utils.linear(o, params, base + 'fc', mode, taps), (g0, g1, g2)

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

    def layer(x, params, base, mode, taps):
        weight = params[base + '.conv']
        x = F.conv2d(x, weight, params.get(base + '.bias'), padding=weight.shape[2] // 2)
        x = utils.norm(utils.tap(x, base + '.conv', taps), params, base + '.bn', mode, taps)
        return x if base.endswith('.linear') else F.relu(x, inplace=True)

    def group(o, params, base, mode, taps):
        for name in layers:
            o = layer(o, params, f'{base}.{name}', mode, taps)
        return o

    def f(inputs, params, mode, base='', taps=None):
        g0 = group(inputs, params, base + 'group0', mode, taps)
        x = F.max_pool2d(g0, 3, 2, ceil_mode=True)
        g1 = group(x, params, base + 'group1', mode, taps)
        x = F.avg_pool2d(g1, 3, 2, ceil_mode=True)
        g2 = group(x, params, base + 'group2', mode, taps)
        o = F.adaptive_avg_pool2d(g2, 1).flatten(1)
        return utils.linear(o, params, base + 'fc', mode, taps), (g0, g1, g2)

    return f, params


# --model -> function of the options and the number of classes that gives (f, params)
NETS = {
    'resnet': lambda opt, classes: resnet(opt.depth, opt.width, classes),
    'nin': lambda opt, classes: nin(opt.width, classes, not opt.no_bn, not opt.no_pool_relu),
}


def make_net(opt, num_classes):
    """The net that the options describe -> (f, params)."""
    return NETS[opt.model](opt, num_classes)


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
        f, _ = net_like(params)
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f'{path} is no net of this script; its first entries are '
                         f'{", ".join(list(params)[:3])}') from None
    return f, facts.classes_of(f, params, path)


def load_net(name):
    """A run under logs/, a run's folder or a file of parameters -> (f, classes, params)."""
    path = store.locate(name)
    params = store.read(path)
    return *net_of(params, path), params


# ---- training -----------------------------------------------------------------------------------

@functools.lru_cache(maxsize=2)
def images_on(device, name, root, validate, pad):
    """Training images, with `pad` pixels around them, and test images on the device, each (images,
    labels), and the number of classes. Runs side by side share them."""
    with processes.first_alone():        # they may have to be downloaded
        train, test, classes = cifar_sets.load(name, root, validate)
    train = arrays.pad_reflect(train[0], pad), train[1]
    return *([torch.from_numpy(v).to(device) for v in pair] for pair in (train, test)), classes


def prepare(opt, device):
    return functools.partial(make_training, opt, device)


def make_training(opt, device, checkpoint, lines):
    teacher = None
    if opt.teacher_id:
        f_t, teacher_classes, teacher = load_net(opt.teacher_id)
        teacher = opt.teacher_id, f_t, teacher
    pad = opt.randomcrop_pad
    train, test, classes = images_on(device, opt.dataset, opt.dataroot, opt.validate, pad)
    if teacher and teacher_classes != classes:
        raise InputError(f'the teacher {opt.teacher_id} knows {teacher_classes} classes, '
                         f'{opt.dataset} has {classes}')
    how = cifar_sets.MEAN, cifar_sets.STD, step.parameter_dtype(opt.dtype)
    size = test[0].shape[1]
    return teaching.prepare(
        opt, device, checkpoint, lines, lambda: make_net(opt, classes), teacher,
        arrays.held_images(*train, opt.batch_size, *how, pad=pad, train=True),
        arrays.held_images(*test, arrays.test_batch(opt.batch_size, size, device), *how),
        classes, size)


def main(argv=None):
    script.main(argv, __file__, parse, prepare)


if __name__ == '__main__':
    script.run(main)
