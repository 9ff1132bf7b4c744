"""The flags that scripts share: schedule, run and device; checks of their values."""
import argparse
import json

from engine import step
from utils import InputError
from weights import store


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints a script's docstring as it stands, and the default of each flag that has one."""

    def _get_help_string(self, action):
        without = action.default in (None, '', []) or action.default is False
        return action.help if without else super()._get_help_string(action)


def make_parser(doc):
    """Make a parser of a script's flags, whose errors are InputErrors of one line."""
    def error(message):
        raise InputError(f'{message}; see --help')

    parser = argparse.ArgumentParser(description=doc, formatter_class=Help)
    parser.error = error
    return parser


def parse_args(parser, argv):
    """Parse the command line `argv` -> the options, and as `given` the names of those that differ
    from their defaults. InputError for an invalid command line."""
    opt = parser.parse_args(argv)
    opt.given = [k for k, v in vars(opt).items() if v != parser.get_default(k)]
    return opt


def add_schedule_flags(parser):
    """Add the flags of the schedule, which all scripts share -> their group."""
    t = parser.add_argument_group('training')
    t.add_argument('--batch_size', type=int, metavar='N', help='images per step over all processes')
    t.add_argument('--epochs', type=int, metavar='N', help='passes over the training images '
                   '(finetune.py: epochs of --steps_per_epoch; 0: as many as --iterations takes)')
    t.add_argument('--lr', type=float, metavar='RATE', help='initial learning rate of SGD with '
                   'momentum 0.9')
    t.add_argument('--epoch_step', metavar='LIST', help='json list of epochs, from 1, at whose '
                   'start the learning rate drops; numbers below 1 are fractions of --epochs, in '
                   'finetune.py of those before the drop')
    t.add_argument('--lr_decay_ratio', type=float, metavar='X', help='the learning rate is '
                   'multiplied by X at each drop')
    t.add_argument('--weight_decay', type=float, metavar='X', help='X/2 times the squared norm of '
                   'the trained parameters, batch normalisation included, is added to the loss '
                   "(finetune.py: by default the method's; the head has --beta, attention none)")
    t.add_argument('--nesterov', action='store_true', help="use Nesterov's momentum")
    t.add_argument('--seed', default=0, type=int, metavar='N', help='seed of initialisation, image '
                   'order, augmentation and dropout')
    return t


def add_run_flags(parser, **defaults):
    """Add the flags of a run and its device, which all scripts share; `defaults` are a script's
    own, of these and other flags."""
    r = parser.add_argument_group('run')
    r.add_argument('--save', default='', metavar='DIR', help="folder for log and checkpoint; '': "
                   'one under logs/, named after the options')
    r.add_argument('--validate', default=0, type=int, metavar='N', help='hold out N training '
                   'images for choosing options: the net is tested on them instead of on the test '
                   'set, in finetune.py on both')
    r.add_argument('--save_every', default=30, type=float, metavar='SECONDS', help='minimum '
                   'time between checkpoints; one always follows the first and the last epoch; 0: '
                   'one after every epoch. The same command continues from the last one')
    r.add_argument('--resume', default='', metavar='RUN', help='another run, or its checkpoint, to '
                   'continue from; its finished epochs are not repeated')
    r.add_argument('--export', default='', metavar='FILE', help='write the trained net alone to '
                   'this file at the end: .pth or .hkl')
    d = parser.add_argument_group('device')
    d.add_argument('--dtype', default='auto', choices=['auto', *step.DTYPES], help='number format '
                   'of activations (parameters are kept in float at least); auto: bfloat16 where '
                   'the hardware has instructions for it, else float')
    d.add_argument('--nthread', default=4, type=int, metavar='N', help='worker processes that load '
                   'images, per training process; none for data sets that are held in memory')
    d.add_argument('--ngpu', default=1, type=int, metavar='N', help='processes to start, one '
                   'per GPU; they share the batch. Not needed under torchrun')
    d.add_argument('--gpu_id', default='', metavar='LIST', help='GPUs to use, such as 0,1 (sets '
                   "CUDA_VISIBLE_DEVICES); '': those of the environment. Ignored under torchrun")
    d.add_argument('--deterministic', action='store_true', help='use only deterministic '
                   'algorithms, perhaps slower ones: bitwise the same results on the same machine')
    d.add_argument('--no_graph', action='store_true', help='on a GPU: launch the kernels of each '
                   'step one by one, instead of as one CUDA graph, for debugging')
    d.add_argument('--compile', action='store_true', help='apply torch.compile to the objective, '
                   'which takes a minute or so')
    d.add_argument('--cuda', action='store_true', help='accepted for old commands and ignored: a '
                   'GPU is used where there is one')
    parser.set_defaults(**defaults)


def check_flags(opt):
    """Raise an InputError for invalid values; make a list of --epoch_step."""
    check_numbers(opt, above_zero=('batch_size', 'lr', 'lr_decay_ratio', 'ngpu'),
                  zero_or_more=('weight_decay', 'validate', 'nthread', 'seed', 'epochs',
                                'save_every'))
    if opt.batch_size % opt.ngpu:
        raise InputError(f'--batch_size {opt.batch_size} cannot be shared evenly by {opt.ngpu} '
                         f'processes')
    steps = json_list(opt.epoch_step, '--epoch_step', "[60,120,160]' or '[0.3,0.6,0.8]")
    if not all(map(is_epoch, steps)):
        raise InputError(f'--epoch_step {opt.epoch_step}: give whole epochs from 1, or fractions '
                         f'between 0 and 1')
    opt.epoch_step = steps
    if opt.export:
        store.check_format(opt.export)


LARGE = 2 ** 32     # integers on a command line are smaller, as seeds of numpy must be
LIMITS = {'size': 2 ** 15, 'width': 2 ** 15}


def whole_epochs(opt):
    """Resolve the fractions in --epoch_step to epochs, from 2 on: 0.3 of 200 is 60."""
    opt.epoch_step = [whole_epoch(s, opt.epochs, 2) for s in opt.epoch_step]


def is_epoch(value):
    """Return whether a value is a whole epoch from 1, or a fraction of all epochs."""
    return type(value) is int and value > 0 or type(value) is float and 0 < value < 1


def whole_epoch(value, epochs, first=1):
    """Resolve what `is_epoch` accepts to an epoch; a fraction is of `epochs`, and gives at least
    `first`."""
    return value if type(value) is int else max(first, round(value * epochs))


def check_numbers(opt, above_zero=(), zero_or_more=()):
    """Raise an InputError for values of the named options that are too small, or so large that
    something would overflow; None is not checked."""
    for name in (*above_zero, *zero_or_more):
        value = getattr(opt, name)
        limit = LIMITS.get(name, LARGE if type(value) is int else float('inf'))
        if value is None or 0 < value < limit or value == 0 and name in zero_or_more:
            continue
        least = 'a number above zero' if name in above_zero else 'zero or more'
        raise InputError(f'--{name} is {value}: give '
                         f'{f"less than {limit}" if value >= limit else least}')


def json_list(text, flag, example):
    """Parse a flag's text as a json list. InputError, if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise InputError(f"{flag} {text}: give a json list such as '{example}'")
    return value


def unusual(opt, usual):
    """List, for the name of a run, its options that are not the `usual` ones ({name: value})."""
    return [f'{k}{getattr(opt, k)}' for k, v in usual.items() if getattr(opt, k) != v]
