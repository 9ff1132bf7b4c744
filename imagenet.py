"""ImageNet: residual nets, MobileNetV2 and AlexNet, attention transfer and distillation.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention', https://arxiv.org/abs/1612.03928
  He et al., 'Deep Residual Learning for Image Recognition', https://arxiv.org/abs/1512.03385

    python imagenet.py --imagenetpath ~/ILSVRC2012 --depth 18 --width 1 --gpu_id 0,1 --ngpu 2 \\
        --teacher_params resnet34 --beta 1e+3
    python imagenet.py --imagenetpath ~/ILSVRC2012 --evaluate resnet34

With --transfer_from 60 the first should give 29.3 % top-1 error (table 5 of the paper; without the
teacher 30.4 %), the second 26.69 %. The folder holds train/ and val/, each with a folder per class.
Defaults are the paper's, but for the batch size, which it does not give.
"""
import functools

import numpy as np
import torch
import torch.nn.functional as F

import utils
from data import arrays, decoded, folder_sets, image_files
from engine import evaluation, flags, script, step
from methods import teaching
from system import processes
from utils import InputError
from weights import folding, store
from weights.architecture import ALEXNET, BLOCKS, PUBLISHED, TORCHVISION, input_of

USUAL = {'at_groups': [2, 3], 'at_map': 'sum2', 'at_mode': 'code', 'beta_decay': 'constant',
         'transfer_from': 1, 'nesterov': False}


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    m = parser.add_argument_group('model and data')
    m.add_argument('--arch', default='', choices=['', *ARCHS],
                   help='the net to train; \'\' is the ResNet of --depth')
    m.add_argument('--depth', default=18, type=int, metavar='N', help='layers of a ResNet: '
                   f'{", ".join(map(str, BLOCKS))}')
    m.add_argument('--width', default=1, type=float, metavar='X', help='multiplies the numbers of '
                   'channels')
    m.add_argument('--imagenetpath', default='', metavar='DIR', help='folder of the images: train/ '
                   'and val/, with a folder per class in each')
    image_files.add_flags(m)
    m.add_argument('--cache', default='', metavar='DIR', help='first write smaller copies of the '
                   'training images there, once, with the short side to which tests resize (256 '
                   'for --size 224), and train on them; test images stay as they are')
    arrays.add_pixel_flags(parser, "224, or 227 for Caffe's AlexNet",
                           [k for k in arrays.PIXELS if k != 'cifar'])
    flags.add_schedule_flags(parser)
    teaching.add_flags(parser, 'teacher_params', 'the teacher: a file of parameters, a run or one '
                       f'of {", ".join(store.OF_IMAGENET)}', '[2,3]',
                       'the paper uses the last two')
    e = parser.add_argument_group('evaluation')
    e.add_argument('--evaluate', default='', metavar='FILE', help='test this net instead of '
                   'training: a file of parameters, a run, or one of '
                   f'{", ".join(store.OF_IMAGENET)}')
    e.add_argument('--restore_bn', default=0, type=int, metavar='N', help='first restore the batch '
                   'normalisation that was folded into the convolutions, with the statistics of N '
                   'training images; --export writes the restored net')
    e.add_argument('--classes', default='', metavar='LIST', help="json list of the net's outputs "
                   'that the folders of val/ stand for, in their order, if val/ lacks some classes')
    flags.add_run_flags(parser, batch_size=256, lr=.1, epochs=100, weight_decay=1e-4,
                        epoch_step='[30,60,90]', lr_decay_ratio=.1)
    opt = flags.parse_args(parser, argv)
    flags.check_flags(opt)
    check_flags(opt)
    opt.epochs = 0 if opt.evaluate else opt.epochs      # a test has none
    flags.whole_epochs(opt)
    name = teaching.run_name(opt, ['imagenet', opt.arch, f'{opt.width:g}'], USUAL,
                             opt.teacher_params)
    opt.save = opt.save or ('' if opt.evaluate else f'logs/{name}')
    return opt


def check_flags(opt):
    """Raise an InputError for invalid values and combinations."""
    flags.check_numbers(opt, above_zero=['width', 'epochs'], zero_or_more=['size', 'restore_bn'])
    teaching.check_flags(opt, 'teacher_params', groups=4)
    opt.arch = opt.arch or f'resnet{opt.depth}'
    if opt.arch not in ARCHS:
        raise InputError(f'--depth {opt.depth}: choose from {", ".join(map(str, BLOCKS))}')
    if opt.arch == 'alexnet' and opt.width != 1:
        raise InputError('--width is for the other nets: AlexNet has one width')
    if not opt.imagenetpath:
        raise InputError('--imagenetpath is missing: the folder that holds train/ and val/')
    if opt.classes:
        opt.classes = flags.json_list(opt.classes, '--classes', '[0,217]')
    if not opt.evaluate and (opt.restore_bn or opt.classes):
        raise InputError('--restore_bn and --classes are for --evaluate')
    if opt.evaluate and (opt.validate or opt.cache or opt.resume):
        raise InputError('--validate, --cache and --resume are for training, not for --evaluate')


# ---- nets ---------------------------------------------------------------------------------------

ARCHS = [*(f'resnet{depth}' for depth in BLOCKS), 'mobilenet_v2', 'alexnet']
# MobileNetV2: expansion, channels, blocks and stride of each row of the paper's table 2; and the
# blocks whose outputs, the last at 56, 28, 14 and 7 of 224 pixels, are its groups
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))
MOBILENET_GROUPS = (3, 6, 13, 17)


def define_student(depth, width, num_classes=1000):
    """Make ResNet-18, 34, 50 or 101 with `width` times the channels -> (f, params). InputError for
    another depth, or a width that leaves no channels.

    f(inputs (B, 3, H, W), params, mode, base='', taps=None) gives logits (B, num_classes) and the
    outputs of the four groups, after ReLU. Entries are named as in the published code (18, 34;
    with BN `bndim` after the projection, too) or as torchvision's (50, 101; the second convolution
    of a block has the stride).
    """
    if depth not in BLOCKS:
        raise InputError(f'--depth {depth}: choose from {", ".join(map(str, BLOCKS))}')
    bottleneck = depth >= 50
    names = stem, block, first, projection = TORCHVISION if bottleneck else PUBLISHED
    layer = functools.partial(utils.conv_bn_params, weight='.weight' if bottleneck else '')
    ni, widths = 64, utils.scaled((64, 128, 256, 512), width)
    params = layer(stem, 3, ni, 7)
    for j, n in enumerate(BLOCKS[depth]):
        for i in range(n):
            base = block.format(j + first, i)
            channels = [ni, widths[j], widths[j], *([4 * widths[j]] if bottleneck else [])]
            for k, size in enumerate((1, 3, 1) if bottleneck else (3, 3)):
                params |= layer(f'{base}.conv{first + k}', channels[k], channels[k + 1], size)
            if ni != channels[-1]:
                params |= layer(f'{base}.{projection}', ni, channels[-1])
            ni = channels[-1]
    params.update(utils.flatten({'fc': utils.linear_params(ni, num_classes)}))
    return resnet_f(BLOCKS[depth], names), utils.set_requires_grad_except_bn_(params)


def resnet_f(blocks, names):
    """Make the function of a ResNet, basic or bottleneck, with `blocks` in each group and
    entries of the `names`. These say the rest: whether there are projections, and BN after them, or
    only biases, because BN was folded away."""
    def block(x, params, base, mode, stride, taps):
        def there(key):
            return key in params or key + '.weight' in params

        convs = [k for k in (f'{base}.conv{names.first + i}' for i in range(3)) if there(k)]
        o, strided, projection = x, convs[-2], f'{base}.{names.projection}'     # the first 3x3 one
        for key in convs:
            o = utils.conv_bn(o, params, key, mode, stride if key == strided else 1, taps=taps)
            o = F.relu(o, inplace=True) if key != convs[-1] else o
        if there(projection):
            x = utils.conv_bn(x, params, projection, mode, stride, taps=taps)
        return F.relu(o.add_(x), inplace=True)

    def f(inputs, params, mode, base='', taps=None):
        o = utils.conv_bn(inputs, params, base + names.stem, mode, 2, taps=taps)
        o = F.max_pool2d(F.relu(o, inplace=True), 3, 2, 1)
        groups = utils.residual_groups(o, blocks, block, base + names.block, params, mode, taps,
                                       names.first)
        o = F.adaptive_avg_pool2d(groups[-1], 1).flatten(1)
        return utils.linear(o, params, base + 'fc', mode, taps), groups

    return f


def preactivation_f(blocks):
    """Make the function of functional-zoo's resnet-18-at-export: pre-activation basic blocks, whose
    groups' outputs are sums, before normalisation (`affine`) and ReLU."""
    def act(x, params, key, mode, taps):
        return F.relu(utils.norm(x, params, key, mode, taps))

    def block(x, params, base, mode, stride, taps):
        # the first block of all has no affine0: its input is activated already
        o = act(x, params, base + '.affine0', mode, taps)
        if base + '.conv_dim' in params:
            x = utils.conv2d(o, params, base + '.conv_dim', stride, taps=taps)
        o = utils.conv_bn(o, params, base + '.conv0', mode, stride, taps=taps,
                          bn=base + '.affine1')
        return utils.conv2d(F.relu(o), params, base + '.conv1', taps=taps) + x

    def f(inputs, params, mode, base='', taps=None):
        o = utils.conv2d(inputs, params, base + 'conv0', 2, taps=taps)
        o = F.max_pool2d(act(o, params, base + 'affine0', mode, taps), 3, 2, 1)
        groups = utils.residual_groups(o, blocks, block, base + 'group{}.block{}', params, mode,
                                       taps)
        o = act(groups[-1], params, base + 'affine_last', mode, taps)
        o = F.adaptive_avg_pool2d(o, 1).flatten(1)
        return utils.linear(o, params, base + 'fc', mode, taps), groups

    return f


def mobilenet_v2(width=1, num_classes=1000):
    """Make MobileNetV2 (Sandler et al., https://arxiv.org/abs/1801.04381) -> (f, params) as
    `define_student`, with torchvision's names; channels are rounded to multiples of 8."""
    def channels(n):
        m = max(8, int(n * width + 4) // 8 * 8)
        return m if m >= .9 * n * width else m + 8

    ni, i, layer = channels(32), 0, utils.conv_bn_params
    params = layer('features.0.0', 3, ni, 3)
    for expansion, c, n, _ in INVERTED:
        for _ in range(n):
            i, hidden, no, d = i + 1, ni * expansion, channels(c), int(expansion > 1)
            params[f'features.{i}.conv'] = {
                **(layer('0.0', ni, hidden) if d else {}), **layer(f'{d}.0', 1, hidden, 3),
                **layer(f'{d + 1}', hidden, no)}
            ni = no
    last = max(1280, channels(1280))
    params |= layer(f'features.{i + 1}.0', ni, last)
    params['classifier.1'] = {'weight': torch.randn(num_classes, last) * .01,
                              'bias': torch.zeros(num_classes)}
    params = utils.flatten(params)
    return mobilenet_v2_f, utils.set_requires_grad_except_bn_(params)


def mobilenet_v2_f(inputs, params, mode, base='', taps=None):
    """Compute MobileNetV2; the entries give the channels and what is folded."""
    utils.check_mode(mode)
    strides = [s if not k else 1 for _, _, n, s in INVERTED for k in range(n)]

    def conv(x, key, stride=1, groups=1, act=True):
        x = utils.conv_bn(x, params, base + key, mode, stride, groups, taps)
        return F.relu6(x, inplace=True) if act else x

    o, groups = conv(inputs, 'features.0.0', 2), []
    for i, stride in enumerate(strides, 1):
        key, x = f'features.{i}.conv', o
        d = 1 if f'{base}{key}.1.0.weight' in params else 0
        o = conv(o, f'{key}.0.0') if d else o
        o = conv(o, f'{key}.{d}.0', stride, o.shape[1])
        o = conv(o, f'{key}.{d + 1}', act=False)
        o = o.add_(x) if stride == 1 and o.shape[1] == x.shape[1] else o
        groups += [o] if i in MOBILENET_GROUPS else []
    o = F.adaptive_avg_pool2d(conv(o, f'features.{len(strides) + 1}.0'), 1).flatten(1)
    o = F.dropout(o, .2, mode)
    return utils.linear(o, params, base + 'classifier.1', mode, taps), tuple(groups)


def alexnet(num_classes=1000):
    """Make torchvision's AlexNet (Krizhevsky, https://arxiv.org/abs/1404.5997) -> (f, params) as
    `define_student`; the groups are the outputs of convolutions 1, 2, 4 and 5."""
    c, params = (3, 64, 192, 384, 256, 256), {}
    for key, ni, no, k in zip(ALEXNET, c, c[1:], (11, 5, 3, 3, 3), strict=False):
        params |= {f'{key}.weight': utils.conv_params(ni, no, k), f'{key}.bias': torch.zeros(no)}
    c = (9216, 4096, 4096, num_classes)
    for key, ni, no in zip(ALEXNET[5:], c, c[1:], strict=False):
        params[key] = utils.linear_params(ni, no)
    params = utils.flatten(params)
    return alexnet_f(caffe=False), utils.set_requires_grad_except_bn_(params)


def alexnet_f(caffe):
    """Make the function of AlexNet: torchvision's, or Caffe's reference net (grouped convolutions,
    local response normalisation after pooling, no padding at first, BGR)."""
    def f(inputs, params, mode, base='', taps=None):
        utils.check_mode(mode)
        o, groups = inputs.flip(1) if caffe else inputs, []
        for i, key in enumerate(ALEXNET[:5]):
            how = {} if i else {'stride': 4, 'padding': 0 if caffe else 2}
            o = F.relu(utils.conv2d(o, params, base + key, taps=taps,
                                    groups=2 if caffe and i in (1, 3, 4) else 1, **how))
            groups += [o] if i != 2 else []
            if i in (0, 1, 4):
                o = F.max_pool2d(o, 3, 2, ceil_mode=caffe)
            if i in (0, 1) and caffe:
                o = F.local_response_norm(o, 5, 1e-4, .75)
        if o.shape[2:] != (6, 6):   # else it would do nothing, with a nondeterministic gradient
            o = F.adaptive_avg_pool2d(o, 6)
        o = o.flatten(1)
        for i, key in enumerate(ALEXNET[5:]):
            o = F.relu(o) if i else o
            o = F.dropout(o, .5, mode) if i in ((1, 2) if caffe else (0, 1)) else o
            o = utils.linear(o, params, base + key, mode, taps)
        return o, tuple(groups)

    return f


def make_net(arch, width, num_classes):
    """Make a net by its name, one of ARCHS -> (f, params)."""
    if arch == 'alexnet':
        return alexnet(num_classes)
    if arch == 'mobilenet_v2':
        return mobilenet_v2(width, num_classes)
    return define_student(int(arch.removeprefix('resnet')), width, num_classes)


# ---- nets from files ----------------------------------------------------------------------------

# the kind of an `Architecture` -> function of it that gives the net's function
FUNCTIONS = {
    'resnet': lambda found: resnet_f(found.blocks, found.names),
    'preactivation': lambda found: preactivation_f(found.blocks),
    'mobilenet_v2': lambda found: mobilenet_v2_f,
    'alexnet': lambda found: alexnet_f(caffe=False),
    'caffenet': lambda found: alexnet_f(caffe=True),
}


def define_teacher(params_file):
    """Load the net in a file -> (f, params): torchvision's, functional-zoo's exports, Caffe's
    AlexNet, or one of ours. The architecture follows from the entries."""
    f, _, params, _ = teaching.load_net(params_file, FUNCTIONS)
    return f, params


# ---- evaluation and training --------------------------------------------------------------------

def images_of(opt, files, labels, size, pixels, device, **how):
    """Make the `arrays.Images` of files by the options; `how` as `decoded.decoded_images` takes
    it."""
    return decoded.decoded_images(files, labels, opt.batch_size, size, *arrays.PIXELS[pixels],
                                  device, opt.nthread, step.parameter_dtype(opt.dtype), **how)


def restored(opt, f, params, device, size, pixels):
    """Restore the net's batch normalisation, with the statistics of training images. InputError, if
    none was folded away, or in several processes."""
    if processes.world() > 1:
        raise InputError('--restore_bn runs in one process: --export the restored net, and use '
                         'that in several')
    if not folding.folded(f, params):
        raise InputError('--restore_bn: no batch normalisation was folded away in this net')
    files, labels, _ = folder_sets.class_folders(opt.imagenetpath, 'train')
    chosen = np.random.default_rng(opt.seed).permutation(len(files))[:opt.restore_bn]
    images = images_of(opt, files[chosen], labels[chosen], size, pixels, device)
    return folding.restore_batch_norm(f, params, (inputs for inputs, _ in images.batches()))


def evaluate(opt, device):
    """Test a net from a file on the images of val/. InputError for one of other classes."""
    f, outputs, params, path = teaching.load_net(opt.evaluate, FUNCTIONS, known=store.OF_IMAGENET)
    files, labels, names = folder_sets.class_folders(opt.imagenetpath, 'val')
    if opt.skip_broken:
        files, labels = image_files.without_broken((files, labels), opt.nthread)
    among = evaluation.among_classes(opt, f, outputs, names)
    size, pixels = input_of(opt, params, store.options(path))
    params = step.on_device(params, opt.dtype, device)
    if opt.restore_bn:
        params = restored(opt, f, params, device, size, pixels)
    test = images_of(opt, files, labels, size, pixels, device)
    evaluation.report_test(opt, device, path, f, among, params, test, len(names), size, pixels)
    for url, _, errors in store.OF_IMAGENET.values():
        if url.endswith('/' + path.name):
            print('on the 50,000 images of ImageNet the errors should be {:.2f} % and {:.2f} %'
                  .format(*errors))


def make_training(opt, device, checkpoint, lines):
    """Make the `loop.Training` of the options, continuing from `checkpoint` and `lines`."""
    f_t, outputs, params_t, path = teaching.load_teacher(opt.teacher_params, FUNCTIONS,
                                                         store.OF_IMAGENET)
    files, test_files, num_classes = folder_sets.image_folders(opt.imagenetpath, opt.validate)
    if opt.skip_broken:
        files, test_files = (image_files.without_broken(s, opt.nthread)
                             for s in (files, test_files))
    elif not (checkpoint or f_t):       # else one of them would cost the first epoch
        image_files.check_readable(test_files[0], opt.nthread)
    teaching.check_classes(opt.teacher_params, outputs, num_classes, opt.imagenetpath)
    size, pixels = input_of(opt, params_t, store.options(path) if path else {})
    opt.input_size, opt.input_pixels = size, pixels     # for those who use the net
    if opt.cache:
        with processes.first_alone():
            files = decoded.write_cache(*files, opt.cache, size, opt.nthread)
    return teaching.make_training(
        opt, device, checkpoint, lines, lambda: make_net(opt.arch, opt.width, num_classes),
        (opt.teacher_params, f_t, params_t),
        images_of(opt, *files, size, pixels, device, train=True),
        images_of(opt, *test_files, size, pixels, device), num_classes, size)


def check_data(opt, device):
    """Print the size of the data set, and open all of its images. InputError, if it is damaged."""
    folder_sets.check_image_folders(opt.imagenetpath, opt.nthread)


def instead(opt):
    """Return the function that is to be called instead of training, or None."""
    return check_data if opt.check_data else evaluate if opt.evaluate else None


def main(argv=None, program=__file__):
    """Run the command line `argv` (default: the process's own); any further processes run the file
    `program`."""
    script.main(argv, program, parse, make_training, instead)


if __name__ == '__main__':
    script.run(main)
