"""Fine-tune a net of any of the scripts: keep it near its source, or bring two domains closer.

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

Others' runs gave 11.3 % test error (DELTA on Dogs, in AFA's paper) and 15.8 % (DAN, amazon to
webcam, Transfer-Learning-Library). The loss is cross-entropy + alpha times the method's regulariser
+ beta / 2 times the squared norm of the head's parameters. Defaults are those of the published code
of DELTA and L2-SP.
"""
import contextlib
import functools
import os
import pathlib
import re
import sys

import numpy as np
import torch

import nets
import utils
from data import arrays, decoded, folder_sets, image_files, image_sets
from engine import evaluation, flags, loop, predictions, runs, script, step
from methods import (
    attentive,
    delta,
    fine_tuned_net,
    fine_tuning,
    gates,
    importance,
    losses,
    pruning,
)
from methods.losses import METHODS
from system import processes
from utils import InputError
from weights import facts, folding, store
from weights.architecture import architecture_of, input_of

# options that a run's name leaves out when they have these values
USUAL = {'per_class': 0, 'fraction': 0, 'validate': 0, 'lr': .01, 'head_lr_mult': 1, 'freeze': [],
         'bottleneck': None, 'keep_head': False, 'size': 0, 'crop': 'place', 'resize': 'squash',
         'box': False, 'shift': 0, 'sp': 'conv', 'normalize_features': False,
         'channel_attention': 'fc', 'fixed_attention': '', 'mmd': 'biased', 'mmd_layers': 'all',
         'dropout': 0, 'nesterov': False, 'prune': '', **pruning.DEFAULTS}


# ---- flags --------------------------------------------------------------------------------------

def parse(argv):
    """Parse the command line `argv` -> the options. InputError for invalid ones."""
    parser = flags.make_parser(__doc__)
    add_data_flags(parser)
    fine_tuning.add_schedule_flags(parser)
    fine_tuning.add_flags(parser, fine_tuned_net.FROZEN)
    pruning.add_flags(parser)
    flags.add_run_flags(parser, batch_size=64, lr=.01, epochs=0, weight_decay=None,
                        epoch_step='[0.67]', lr_decay_ratio=.1, at_map='sum2', at_mode='code')
    opt = flags.parse_args(parser, argv)
    fine_tuning.check_flags(opt)
    check_flags(opt)
    pruning.check_flags(opt)
    if not (opt.evaluate or opt.check_data):
        fine_tuning.check_sources(opt)
    if opt.epochs or opt.steps_per_epoch:
        opt.iterations = opt.iterations or fine_tuning.STEPS
        fine_tuning.set_epochs(opt)
    opt.save = opt.save or ('' if opt.evaluate else f'logs/{run_name(opt)}')
    return opt


def add_data_flags(parser):
    """Add the flags of the net, the data set and the pixels."""
    m = parser.add_argument_group('model and data')
    m.add_argument('--arch', default='', help='net to train: resnet18, 34, 50, 101, mobilenet_v2, '
                   "alexnet, wrn-depth-width, cifar_resnet-depth-width; '': that of --source")
    m.add_argument('--source', default='', metavar='WEIGHTS', help='weights to start from: a file '
                   f"of parameters, a run or one of {', '.join(store.KNOWN)}; '': random ones")
    image_sets.add_flags(m)
    p = arrays.add_pixel_flags(parser, "as for the source, else 224 (Caffe's AlexNet: 227; nets "
                               'of CIFAR: 32, or the size of images held in memory)')
    p.add_argument('--resize', default='squash', choices=decoded.RESIZES, help='resize to 256 '
                   'pixels (for --size 224) before the crop: squash: height and width; keep: the '
                   'short side')
    p.add_argument('--crop', default='place', choices=decoded.CROPS, help='crops in training: '
                   'place: at a random position; area: at a random position, with 8 to 100 %% of '
                   'the area; centre: the central one. All but the last are mirrored at random')
    p.add_argument('--box', action='store_true', help='cub: crop each image to its bounding box')
    e = parser.add_argument_group('evaluation')
    e.add_argument('--evaluate', default='', metavar='FILE', help='test this net instead of '
                   f'training: a file of parameters, a run, or one of {", ".join(store.KNOWN)}')
    e.add_argument('--predict', default=[], nargs='+', metavar='IMAGE', help='print the most '
                   'likely classes of images, by the net of --evaluate; as csv, if one is a folder')
    e.add_argument('--ten_crop', action='store_true', help='in testing, average the logits of '
                   'ten crops: corners and centre, mirrored and not')


def check_flags(opt):
    """Raise an InputError for invalid values and combinations."""
    flags.check_flags(opt)
    flags.check_numbers(opt, zero_or_more=(
        'iterations', 'steps_per_epoch', 'lr_gamma', 'lr_power', 'size', 'per_class', 'fraction'))
    if opt.predict and not opt.evaluate:
        raise InputError('--predict needs --evaluate, the net to predict with')
    if opt.predict and opt.ngpu > 1:
        raise InputError('--predict runs in one process: omit --ngpu')
    if opt.per_class and opt.fraction or not opt.fraction < 1:
        raise InputError('--fraction: give a number below 1, and no --per_class')
    if opt.schedule == 'exp' and len(opt.epoch_step) != 1:
        raise InputError('--schedule exp takes one --epoch_step: the epochs that each decay takes')
    if opt.box and opt.dataset != 'cub':
        raise InputError('--box is for --dataset cub, which has bounding boxes')


def run_name(opt):
    """Make a folder name from the options that tell experiments apart."""
    parts = [opt.dataset, opt.domain, opt.target, opt.arch or opt.source, opt.method,
             f'{opt.alpha:g}' if opt.alpha else '', *flags.unusual(opt, USUAL),
             f'seed{opt.seed}']
    return re.sub(r'[^\w.]+', '_', '_'.join(p for p in parts if p))


# ---- data ---------------------------------------------------------------------------------------

def images_of(opt, images, size, pixels, device, train=False, batch_size=0, count=0, ten=False):
    """Make the `arrays.Images` of a set (files, labels, boxes...). Images in memory that have the
    size of the crops are put on the device, and augmented as by cifar.py, with a padding of an
    eighth of their size (4 pixels for CIFAR). `ten`: whether ten crops of each are tested."""
    files, labels, *boxes = images
    batch_size, dtype = batch_size or opt.batch_size, step.parameter_dtype(opt.dtype)
    mean, std = arrays.PIXELS[pixels]
    if files.shape[1:3] == (size, size) and (opt.crop == 'place' if train else not ten):
        pad = size // 8 if train else 0
        batch_size = batch_size if train else arrays.test_batch(batch_size, size, device)
        held = (torch.from_numpy(v).to(device) for v in (arrays.pad_reflect(files, pad), labels))
        return arrays.held_images(*held, batch_size, mean, std, dtype, pad, train, count)
    views = {'crop': opt.crop} if train else {'ten': ten}
    return decoded.decoded_images(
        files, labels, batch_size, size, mean, std, device, opt.nthread, dtype, train, count,
        resize=opt.resize, boxes=boxes[0] if opt.box and boxes else None, **views)


# ---- training and evaluation --------------------------------------------------------------------

RESTORED = 512      # images for the statistics of restored batch normalisation
SEEN = 5000         # images, at most, for those of gates, and for the mean of attention


def given_net(opt, sets, classes):
    """Load the net of --source, or make that of --arch -> (f, params, size, pixels). InputError, if
    there is no such net, or the two differ."""
    if not opt.source:
        f, params = nets.new_net(opt.arch, classes)
        return f, params, *input_of(opt, params, {}, sets['train'][0])
    f, _, params, path = nets.load_net(opt.source, any_head=not opt.keep_head)
    params = {k: v.float() for k, v in params.items()}
    arch = architecture_of(params).arch
    if opt.arch and opt.arch != arch:
        raise InputError(f'--source {opt.source} is {arch or "another net"}, not --arch {opt.arch}')
    size, pixels = input_of(opt, params, store.options(path), sets['train'][0])
    if folding.folded(f, params):
        some = arrays.some_of(sets['train'], RESTORED)
        print(f'batch normalisation is restored in {opt.source}, with the statistics of '
              f'{len(some[1])} training images')
        images = images_of(opt, some, size, pixels, torch.device('cpu'))
        params = folding.restore_batch_norm(f, params,
                                            (inputs.float() for inputs, _ in images.batches()))
    return f, params, size, pixels


def start_of(opt, sets, classes, generator):
    """Make the net that training starts with: a given or new one, with a head for `classes` classes
    and frozen parts -> (f, params, name of the head, size, pixels). InputError, if --keep_head does
    not fit the data set."""
    with runs.drawing_from(torch.Generator().manual_seed(opt.seed)):
        f, params, size, pixels = given_net(opt, sets, classes)
    head = architecture_of(params).head
    if not opt.keep_head:
        with runs.drawing_from(generator):
            params = fine_tuned_net.with_new_head(
                params, head, classes, fine_tuned_net.bottleneck_of(opt, params), opt.dropout)
    elif len(params[head + '.weight']) != classes:
        raise InputError(f'--keep_head: {opt.source} has {len(params[head + ".weight"])} '
                         f'classes, the data set has {classes}')
    return f, fine_tuned_net.freeze(f, params, opt.freeze, head), head, size, pixels


def assemble(opt, f, start, head, size, pixels, device, generator):
    """Collect all parameters of a training that starts from the net (f, start) -> (function of what
    it is compared with, or None; names of the layers that are looked at; params). Attention is
    drawn from a copy of the generator, so that the images come in the same order as with other
    methods."""
    layers, unpruned = fine_tuned_net.tapped(opt, start), start
    start = pruning.net_to_prune(opt, f, start, size)
    compared = start if METHODS[opt.method].needs == 'parameters' else unpruned
    f_t, reference = fine_tuned_net.reference(opt, f, compared, head, layers, pixels, nets.load_net)
    fine_tuning.check_shapes(opt, 'the net', f, start, size)
    fine_tuning.check_shapes(opt, 'its teacher', f_t, reference, size)
    attention = attentive.attention_of(opt, f, start, layers, size, generator.clone_state())

    def placed(its, fixed=False):
        return step.on_device(its, opt.dtype, device, fixed)

    # what is compared, not computed with, stays as exact as what is trained
    return f_t, layers, {**utils.with_prefix(placed(start), 'student.'),
                         **utils.with_prefix(placed(reference, f_t is not None), 'teacher.'),
                         **placed(attention)}


def prepare(opt, device):
    """Read the data, on which the number of epochs depends -> sets, names of the classes, steps
    per epoch."""
    if not pathlib.Path(opt.save, 'log.txt').exists():      # before data are fetched in vain
        with processes.first_alone():
            for name in filter(None, (opt.source, opt.teacher)):
                store.locate(name)
    sets, names = image_sets.read_sets(opt)
    return sets, names, fine_tuning.set_epochs(opt, len(sets['train'][1]))


def make_training(opt, device, checkpoint, lines, sets, names, steps):
    """Make the `loop.Training` of the options, continuing from `checkpoint` and `lines`."""
    if not (checkpoint or opt.skip_broken):     # else one of them would cost the first epoch
        tested = [s[0] for s in (sets['validation'], sets['test']) if s]
        image_files.check_readable(np.concatenate(tested), opt.nthread)
    classes, generator = len(names), torch.Generator().manual_seed(opt.seed)
    f, start, head, size, pixels = start_of(opt, sets, classes, generator)
    # for the log, and for those who use the net
    opt.input_size, opt.input_pixels, opt.steps = size, pixels, steps

    def images(name, **how):
        return images_of(opt, sets[name], size, pixels, device, **how)

    f_t, layers, params = assemble(opt, f, start, head, size, pixels, device, generator)
    if opt.method == 'delta':
        its = images('train', train=True, batch_size=delta.BATCH_SIZE)
        order = generator.clone_state()     # the images then come in the order of other methods
        found = delta.channel_weights(opt, f, utils.without_prefix(params, 'student.'), head,
                                      layers, lambda: its.batches(order), checkpoint)
        params |= {f'teacher.channel_weights.{k}': v.to(device) for k, v in found.items()}
    seen = images_of(opt, arrays.some_of(sets['train'], SEEN), size, pixels, device)
    if opt.fixed_attention:
        params = attentive.with_fixed(opt, f_t, params, layers, seen.batches())
    count = opt.steps_per_epoch * opt.batch_size
    learn = images('train', train=True, count=count)
    if METHODS[opt.method].needs == 'target':
        learn = arrays.both(learn, images('target', train=True, count=count or learn.n))
    objective = losses.make_objective(opt, nets.over_crops(f), f_t, layers, [(opt.method, None)])
    state = step.new_state(torch.compile(objective) if opt.compile else objective, params,
                           opt.dtype, groups=fine_tuning.parameter_groups(opt, params, head),
                           nesterov=opt.nesterov)
    tested = images('test')
    return loop.Training(
        opt, state, learn, images('test', ten=opt.ten_crop), classes, generator, checkpoint, lines,
        validation=images('validation', ten=opt.ten_crop) if opt.validate else None,
        log_extra={'class_names': names},
        weight=lambda epoch: opt.alpha, rate=functools.partial(fine_tuning.rate, opt, steps),
        on_epoch=lambda epoch: pruning.begin_phase(opt, f, params, epoch, size, seen.batches()),
        logged=lambda lines: {**fine_tuning.logged(lines),
                              **pruning.sizes(opt, lines, f, params, size, tested)},
        is_random=facts.is_random(f, start, size, opt.batch_size // processes.world()))


def compare_data(opt, made, path):
    """Say where the data of a test differ from those of the net's run, which had the options
    `made`."""
    for k in ('domain', 'target', 'shift', 'box', 'ten_crop'):
        its, own = made.get(k), getattr(opt, k)
        if made.get('dataset') == opt.dataset and (its or 0) != (own or 0):
            print(utils.shown(f'--{k} was {its or "not given"} in the run of {path}, and is '
                              f'{own or "not given"} here'))


def check_drawn(opt, made, path):
    """Raise an InputError, if a run's net would be tested on images that it was trained on."""
    same = all(made.get(k) == getattr(opt, k) for k in ('dataset', 'domain'))
    drawn = {k: made.get(k) for k in ('per_class', 'fraction', 'seed')}
    if same and any(getattr(opt, k) != v for k, v in drawn.items()):
        raise InputError(f'{path} was trained on the images drawn by '
                         f'{" ".join(f"--{k} {v:g}" for k, v in drawn.items())}: give the same '
                         f'flags, so that none of them is tested on')


def take_resize(opt, path):
    """Take --resize from the run that wrote a file, unless it is given -> options of that run."""
    made = store.options(path)
    if 'resize' not in opt.given:
        opt.resize = made.get('resize', opt.resize)
    return made


def evaluate(opt, device):
    """Test a net from a file on the test images. InputError, if it does not fit the data set."""
    sets, names = image_sets.read_sets(opt)
    f, outputs, params, path = nets.load_net(opt.evaluate)
    if outputs != len(names):
        raise InputError(f'{opt.evaluate} has {outputs} classes, the data set has {len(names)}')
    made = take_resize(opt, path)
    compare_data(opt, made, path)
    if sets['tests_rest']:
        check_drawn(opt, made, path)
    for k, (name, its) in enumerate(zip(names, made.get('class_names', names), strict=False)):
        if name != its:
            print(utils.shown(f'class {k} is {name} in the data set, {its} in {path}'))
            break
    size, pixels = input_of(opt, params, made, sets['test'][0])
    test = images_of(opt, sets['test'], size, pixels, device, ten=opt.ten_crop)
    params = step.on_device(params, opt.dtype, device)
    evaluation.report_test(opt, device, path, f, nets.over_crops(f), params, test, outputs, size,
                           pixels)
    if gates.gates(params):
        one_crop = images_of(opt, sets['test'], size, pixels, device).batches()
        found = gates.dynamic_macs(f, params, (inputs for inputs, _ in one_crop), size)
        print(f'its gates leave {found:,.0f} multiply-adds, on average over these images')
    if opt.prune and architecture_of(params).channels:
        some = arrays.some_of(sets['test'], importance.IMAGES)
        its = images_of(opt, some, size, pixels, device)
        importance.print_correlations(f, params, list(its.batches()))


def predict(opt, device):
    """Print the likeliest classes of images, with their probabilities, by a net from a file: a line
    for each image, or csv, if a folder is named."""
    with contextlib.redirect_stdout(sys.stderr):    # the answers alone go to stdout
        files = folder_sets.files_named(opt.predict)
        if opt.skip_broken:
            files, = image_files.without_broken((files,), opt.nthread)
        f, outputs, params, path = nets.load_net(opt.evaluate)
    made = take_resize(opt, path)
    names = made.get('class_names', [])
    names = names if len(names) == outputs else [f'class {k}' for k in range(outputs)]
    size, pixels = input_of(opt, params, made)
    facts.count_groups(f, params, size, opt.evaluate)
    images = images_of(opt, (files, np.zeros(len(files), int)), size, pixels, device,
                       ten=opt.ten_crop)
    params = step.on_device(folding.fold(params), opt.dtype, device, fixed=True)
    found = predictions.likeliest(nets.over_crops(f), params, images, names, opt.dtype)
    show = predictions.show_csv if any(map(os.path.isdir, opt.predict)) else predictions.show
    show(zip(map(os.fsdecode, files), found, strict=True))


def report_run(opt, device):
    """Print results of a finished run: its best epoch, what pruning has left of the net."""
    folder = pathlib.Path(opt.save)
    last = runs.read_log(folder / 'log.txt')[-1]
    if opt.prune:
        params = store.read_params(folder / 'model.pt7')
        f, _ = nets.net_of(params, folder)
        pruning.print_gain(opt, device, f, params, last)
    if last['epoch'] > 1:
        print(f'for comparison with papers only: {100 - last["best_on_test_acc"]:.2f} % is the '
              f'lowest test error of any epoch, chosen on the test images')


def check_data(opt, device):
    """Print the size of the data set, and open all of its images. InputError, if it is damaged."""
    image_sets.fetch(opt)
    return image_sets.check_sets(opt.dataset, opt.dataroot, opt.domain, opt.target, opt.shift,
                                 opt.nthread)


def instead(opt):
    """Return the function that is to be called instead of training, or None."""
    return (check_data if opt.check_data else predict if opt.predict else
            evaluate if opt.evaluate else None)


def main(argv=None, program=__file__):
    """Run the command line `argv` (default: the process's own); any further processes run the file
    `program`."""
    script.main(argv, program, parse, make_training, instead, prepare,
                lambda opt, params: gates.compact(params) if opt.prune else params, report_run)


if __name__ == '__main__':
    script.run(main)
