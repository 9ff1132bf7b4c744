"""CIFAR teachers and students: attention transfer and distillation of WRN, NIN and ResNets.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention: Improving the Performance of
  Convolutional Neural Networks via Attention Transfer', https://arxiv.org/abs/1612.03928
  Zagoruyko & Komodakis, 'Wide Residual Networks', https://arxiv.org/abs/1605.07146

    python cifar.py --save logs/resnet_16_2_teacher --depth 16 --width 2
    python cifar.py --save logs/at_16_1_16_2 --teacher_id resnet_16_2_teacher --beta 1e+3

The second should give 7.93 % test error (table 1 of the paper; see results/ for ours). Defaults
are the paper's.
"""
import functools

import torch
import torch.nn.functional as F

import utils
from data import arrays, cifar_sets
from engine import flags, script, step
from methods import teaching
from system import processes
from utils import InputError
from weights import store
from weights.architecture import EXTRA_LAYERS, TORCHVISION

# options that a run's name leaves out when they have these values
USUAL = {'shortcut': 'A', 'at_groups': [0, 1, 2], 'at_map': 'sum2', 'at_mode': 'code',
         'beta_decay': 'constant', 'transfer_from': 1, 'randomcrop_pad': 4, 'nesterov': False}


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    m = parser.add_argument_group('model and data')
    m.add_argument('--model', default='resnet', choices=NETS,
                   help='resnet: WRN-depth-width; nin: network in network of nine convolutions; '
                   'cifar_resnet: ResNet-20 to 110 of He et al., section 4.2')
    m.add_argument('--depth', default=16, type=int, metavar='N', help='number of layers: 6n+4 of '
                   'resnet, 6n+2 of cifar_resnet')
    m.add_argument('--width', default=1, type=float, metavar='X', help='the three groups have X '
                   "times 16, 32 and 64 channels (RepDistiller's resnet8x4: 4); nin: 1 is "
                   'NIN-wide, 0.5 NIN-thin')
    m.add_argument('--shortcut', default='A', choices=['A', 'B'], help='cifar_resnet, where the '
                   'number of channels grows: zeros for the new ones (A, He et al.), or '
                   'projections (B, RepDistiller)')
    m.add_argument('--no_bn', action='store_true', help='nin: no batch normalisation')
    m.add_argument('--no_pool_relu', action='store_true', help='nin: no ReLU before each pooling')
    m.add_argument('--dataset', default='CIFAR10', choices=cifar_sets.SETS,
                   help='shapes is drawn by the program; the others are downloaded if missing')
    m.add_argument('--dataroot', default='.', metavar='DIR', help='folder that holds '
                   'cifar-10-batches-py or cifar-100-python, or into which it is downloaded')
    m.add_argument('--randomcrop_pad', default=4, type=int, metavar='N', help='pad each side of an '
                   'image with N mirrored pixels before a random crop; 0: flips only')
    flags.add_schedule_flags(parser)
    teaching.add_flags(parser, 'teacher_id', 'the teacher, whose depth and width are read from its '
                       'weights: a run under logs/, the path of a run or of a file of parameters, '
                       'or a name such as cifar10_resnet56', '[0,1,2]', 'the paper uses all')
    flags.add_run_flags(parser, batch_size=128, lr=.1, epochs=200, weight_decay=5e-4,
                        epoch_step='[60,120,160]', lr_decay_ratio=.2)
    opt = flags.parse_args(parser, argv)
    flags.check_flags(opt)
    check_flags(opt)
    flags.whole_epochs(opt)
    opt.save = opt.save or f'logs/{run_name(opt)}'
    return opt


def check_flags(opt):
    """Raise an InputError for invalid values and combinations."""
    flags.check_numbers(opt, above_zero=['width', 'epochs'], zero_or_more=['randomcrop_pad'])
    teaching.check_flags(opt, 'teacher_id', groups=3)
    if opt.model != 'nin' and (opt.no_bn or opt.no_pool_relu):
        raise InputError('--no_bn and --no_pool_relu are for --model nin')
    if opt.model == 'nin' and 'depth' in opt.given:
        raise InputError('--depth is not for --model nin, which has nine convolutions')
    if opt.model != 'cifar_resnet' and opt.shortcut != 'A':
        raise InputError('--shortcut is for --model cifar_resnet')
    if opt.model in KINDS:
        blocks_in_group(opt.depth, opt.model)
        utils.scaled(WRN_CHANNELS, opt.width)
    if opt.model == 'nin':
        utils.scaled(NIN_CHANNELS, opt.width)


def run_name(opt):
    """Make a folder name from the options that tell the experiments of the paper apart."""
    size = f'{opt.depth}_{opt.width:g}' if opt.model in KINDS else f'{opt.width:g}'
    parts = [name for name in ('no_bn', 'no_pool_relu') if getattr(opt, name)]
    return teaching.run_name(opt, [opt.dataset, opt.model, size, *parts], USUAL, opt.teacher_id)


# ---- nets ---------------------------------------------------------------------------------------

WRN_CHANNELS = (16, 32, 64)                                     # of the groups, at width 1
NIN_CHANNELS = (192, 160, 96, 192, 192, 192, 192, 192, 192)     # of the convolutions, at width 1
KINDS = {'resnet': 'wrn', 'cifar_resnet': 'cifar_resnet'}   # of the residual nets, by --model


def blocks_in_group(depth, model):
    """Return the number of blocks in each group of a residual net, a `model` of KINDS. InputError
    for a depth that it cannot have."""
    extra = EXTRA_LAYERS[KINDS[model]]
    if not 6 + extra <= depth < 10000 or (depth - extra) % 6:
        raise InputError(f'--depth {depth}: the depth of {model} is 6n+{extra}, such as '
                         f'{", ".join(str(6 * n + extra) for n in (1, 2, 3, 4, 6, 9))}')
    return (depth - extra) // 6


def resnet(depth, width, num_classes):
    """Make WRN-depth-width -> (f, params). InputError for a depth or a width that it cannot have.

    f(inputs (B, 3, H, W), params, mode, base='', taps=None) gives logits (B, num_classes) and the
    outputs of the three groups, before the next BN and ReLU.
    """
    n, widths = blocks_in_group(depth, 'resnet'), utils.scaled(WRN_CHANNELS, width)

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
    return wrn_f((n, n, n)), utils.set_requires_grad_except_bn_(params)


def wrn_f(blocks):
    """Make the function of a WRN with `blocks` in each group."""
    def block(x, params, base, mode, stride, taps):
        o1 = F.relu(utils.norm(x, params, base + '.bn0', mode, taps), inplace=True)
        y = utils.conv_bn(o1, params, base + '.conv0', mode, stride, taps=taps, bn=base + '.bn1')
        z = utils.conv2d(F.relu(y, inplace=True), params, base + '.conv1', taps=taps)
        if base + '.convdim' in params:
            x = utils.conv2d(o1, params, base + '.convdim', stride, taps=taps)
        return z.add_(x)

    def f(inputs, params, mode, base='', taps=None):
        o = utils.conv2d(inputs, params, base + 'conv0', taps=taps)
        groups = utils.residual_groups(o, blocks, block, base + 'group{}.block{}', params, mode,
                                       taps)
        o = F.relu(utils.norm(groups[-1], params, base + 'bn', mode, taps), inplace=True)
        o = F.adaptive_avg_pool2d(o, 1).flatten(1)
        return utils.linear(o, params, base + 'fc', mode, taps), groups

    return f


def cifar_resnet(depth, width, num_classes, shortcut='A'):
    """Make ResNet-depth for CIFAR (He et al., https://arxiv.org/abs/1512.03385, section 4.2), or,
    of width 4, RepDistiller's resnet8x4 and 32x4 -> (f, params). InputError as by `resnet`.

    f is as that of `resnet`, but the groups' outputs are those after ReLU. Entries have
    torchvision's names. Where the number of channels grows, the shortcut is the identity padded
    with zeros (`shortcut` 'A'), or a projection with BN ('B'). The stem has 16 channels, or half as
    many as the first group, if that is more.
    """
    n, widths = blocks_in_group(depth, 'cifar_resnet'), utils.scaled(WRN_CHANNELS, width)
    ni, layer = min(widths[0], max(16, widths[0] // 2)), utils.conv_bn_params
    params = layer('conv1', 3, ni, 3)
    for j, no in enumerate(widths, 1):
        for i in range(n):
            projection = layer('downsample.0', ni, no) if shortcut == 'B' and ni != no else {}
            params[f'layer{j}.{i}'] = {**layer('conv1', ni, no, 3), **layer('conv2', no, no, 3),
                                       **projection}
            ni = no
    params = utils.flatten({**params, 'fc': utils.linear_params(ni, num_classes)})
    return cifar_resnet_f((n, n, n), TORCHVISION, 'fc'), utils.set_requires_grad_except_bn_(params)


def cifar_resnet_f(blocks, names, head):
    """Make the function of a CIFAR ResNet with `blocks` in each group, whose entries have the
    `names`, the linear layer `head`. The entries say where there are projections, and BN."""
    def block(x, params, base, mode, stride, taps):
        o = utils.conv_bn(x, params, f'{base}.conv1', mode, stride, taps=taps)
        o = utils.conv_bn(F.relu(o, inplace=True), params, f'{base}.conv2', mode, taps=taps)
        projection, more = f'{base}.{names.projection}', o.shape[1] - x.shape[1]
        if projection + '.weight' in params:
            x = utils.conv_bn(x, params, projection, mode, stride, taps=taps)
        elif more > 0:      # zeros stand for the new channels
            x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2))
        return F.relu(o.add_(x), inplace=True)

    def f(inputs, params, mode, base='', taps=None):
        o = F.relu(utils.conv_bn(inputs, params, base + names.stem, mode, taps=taps), inplace=True)
        groups = utils.residual_groups(o, blocks, block, base + names.block, params, mode, taps,
                                       names.first)
        o = F.adaptive_avg_pool2d(groups[-1], 1).flatten(1)
        return utils.linear(o, params, base + head, mode, taps), groups

    return f


def nin(width, num_classes, bn=True, pool_relu=True):
    """Make a network in network -> (f, params), as `resnet`: three groups of a 5x5 (3x3 in the
    last) and two 1x1 convolutions. InputError for a width that leaves no channels.

    Width 1 is NIN-wide, .5 NIN-thin. The groups' outputs are what is pooled; with `pool_relu` False
    there is no ReLU before.
    """
    layers = ('layer0', 'layer1', 'layer2' if pool_relu else 'linear')
    widths = utils.scaled(NIN_CHANNELS, width)

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
    return nin_f, utils.set_requires_grad_except_bn_(params)


def nin_f(inputs, params, mode, base='', taps=None):
    """Compute NIN: a layer with `bias` has no BN, one named `linear` no ReLU."""
    def layer(x, base):
        weight = params[base + '.conv']
        x = F.conv2d(x, weight, params.get(base + '.bias'), padding=weight.shape[2] // 2)
        x = utils.norm(utils.tap(x, base + '.conv', taps), params, base + '.bn', mode, taps)
        return x if base.endswith('.linear') else F.relu(x, inplace=True)

    def group(o, base):
        last = 'layer2' if base + '.layer2.conv' in params else 'linear'
        for name in ('layer0', 'layer1', last):
            o = layer(o, f'{base}.{name}')
        return o

    g0 = group(inputs, base + 'group0')
    g1 = group(F.max_pool2d(g0, 3, 2, ceil_mode=True), base + 'group1')
    g2 = group(F.avg_pool2d(g1, 3, 2, ceil_mode=True), base + 'group2')
    o = F.adaptive_avg_pool2d(g2, 1).flatten(1)
    return utils.linear(o, params, base + 'fc', mode, taps), (g0, g1, g2)


# --model -> function of the options and the number of classes that gives (f, params)
NETS = {
    'resnet': lambda opt, classes: resnet(opt.depth, opt.width, classes),
    'cifar_resnet': lambda opt, classes: cifar_resnet(opt.depth, opt.width, classes, opt.shortcut),
    'nin': lambda opt, classes: nin(opt.width, classes, not opt.no_bn, not opt.no_pool_relu),
}


# the kind of an `Architecture` -> function of it that gives the net's function
FUNCTIONS = {'wrn': lambda found: wrn_f(found.blocks),
             'cifar_resnet': lambda found: cifar_resnet_f(found.blocks, found.names, found.head),
             'nin': lambda found: nin_f}


# ---- training -----------------------------------------------------------------------------------

@functools.lru_cache(maxsize=2)
def images_on(device, name, root, validate, pad):
    """Load training images, with `pad` pixels around them, and test images onto the device -> both,
    (images, labels), and the number of classes. Runs side by side share them."""
    with processes.first_alone():        # they may have to be downloaded
        train, test, classes = cifar_sets.load_arrays(name, root, validate)
    train = arrays.pad_reflect(train[0], pad), train[1]
    return *([torch.from_numpy(v).to(device) for v in pair] for pair in (train, test)), classes


def make_training(opt, device, checkpoint, lines):
    """Make the `loop.Training` of the options, continuing from `checkpoint` and `lines`."""
    f_t, outputs, params_t, _ = teaching.load_teacher(opt.teacher_id, FUNCTIONS, store.OF_CIFAR)
    pad = opt.randomcrop_pad
    train, test, classes = images_on(device, opt.dataset, opt.dataroot, opt.validate, pad)
    teaching.check_classes(opt.teacher_id, outputs, classes, opt.dataset)
    how = *arrays.PIXELS['cifar'], step.parameter_dtype(opt.dtype)
    size = test[0].shape[1]
    return teaching.make_training(
        opt, device, checkpoint, lines, lambda: NETS[opt.model](opt, classes),
        (opt.teacher_id, f_t, params_t),
        arrays.held_images(*train, opt.batch_size, *how, pad=pad, train=True),
        arrays.held_images(*test, arrays.test_batch(opt.batch_size, size, device), *how),
        classes, size)


def main(argv=None, program=__file__):
    """Run the command line `argv` (default: the process's own); any further processes run the file
    `program`."""
    script.main(argv, program, parse, make_training)


if __name__ == '__main__':
    script.run(main)
