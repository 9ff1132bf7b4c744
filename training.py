"""The one training loop, and what is around it in every script: flags, precision, exit status.

torchnet's Engine drives it and its meters average; what an epoch adds up stays on the device and is
read once. The folder that a run leaves behind is the business of runs.py.
"""
import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import platform
import re
import sys
import time

import torch
from torchnet.engine import Engine
from torchnet.meter import AverageValueMeter, TimeMeter
from tqdm import tqdm

import parallel
import runs
import weights
from utils import InputError, RunError

DTYPES = {'float': torch.float32, 'bfloat16': torch.bfloat16, 'double': torch.float64}
MOMENTUM = .9


# ---- the script around a run --------------------------------------------------------------------

class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """A script's docstring as it stands, and the default of every flag that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, '', []) else super()._get_help_string(action)


def make_parser(doc):
    """A parser of a script's flags whose errors are InputErrors, of one line."""
    def error(message):
        raise InputError(f'{message}; see --help')

    parser = argparse.ArgumentParser(description=doc, formatter_class=Help)
    parser.error = error
    return parser


def add_flags(parser, **defaults):
    """The flags that all training scripts share; `defaults` are the script's own."""
    t = parser.add_argument_group('training')
    t.add_argument('--batch_size', type=int, help='images per step')
    t.add_argument('--lr', type=float, help='initial learning rate of SGD with momentum 0.9')
    t.add_argument('--epochs', type=int, metavar='N', help='passes over the training images')
    t.add_argument('--weight_decay', type=float, help='L2 penalty, on all trained parameters')
    t.add_argument('--epoch_step', help='json list of the epochs (from 1) at whose start the '
                   'learning rate drops; numbers below 1 are fractions of --epochs, the '
                   'first epoch never')
    t.add_argument('--lr_decay_ratio', type=float, help='factor of the learning rate at each drop')
    t.add_argument('--validate', default=0, type=int, metavar='N',
                   help='hold N training images out and test on them: instead of the test set, or '
                   'with finetune.py beside it')
    t.add_argument('--seed', default=0, type=int, help='of initialisation, order, augmentation')
    t.add_argument('--resume', default='', metavar='FILE', help='checkpoint to start from; not '
                   'needed to continue a run that was cut off: repeat its command')
    t.add_argument('--save', default='', metavar='DIR',
                   help="folder of log and checkpoint; '' makes logs/<name from the options>")
    t.add_argument('--export', default='', metavar='FILE',
                   help='at the end write the (student) net alone: .pth or .hkl')
    d = parser.add_argument_group('device')
    d.add_argument('--dtype', default='auto', choices=['auto', *DTYPES],
                   help='of activations (parameters are kept in float at least); auto: bfloat16 '
                   'where the hardware computes it natively, else float')
    d.add_argument('--compile', action='store_true', help='torch.compile the loss function; on '
                   'a GPU with CUDA graphs')
    d.add_argument('--deterministic', action='store_true',
                   help='deterministic algorithms only: the same bits on the same machine')
    d.add_argument('--nthread', default=4, type=int, help='data-loading workers of each process; '
                   'none is started for data sets that are held in memory')
    d.add_argument('--ngpu', default=1, type=int, help='number of processes to start, one for each '
                   'GPU, which share the batch; not needed under torchrun')
    d.add_argument('--gpu_id', default='', help="value for CUDA_VISIBLE_DEVICES; '' leaves the "
                   'environment alone, and so does torchrun')
    d.add_argument('--cuda', action='store_true', help='accepted and ignored: a GPU is used '
                   'where there is one')
    parser.set_defaults(**defaults)


def check_flags(opt):
    """Refuse values that mean nothing; make a list of --epoch_step."""
    check_numbers(opt, above_zero=('batch_size', 'lr', 'lr_decay_ratio', 'ngpu'),
                  zero_or_more=('weight_decay', 'validate', 'nthread', 'seed', 'epochs'))
    if opt.seed >= 2 ** 32:
        raise InputError(f'--seed is {opt.seed}: give less than 2**32')
    if opt.batch_size % opt.ngpu:
        raise InputError(f'--batch_size {opt.batch_size} cannot be shared evenly by {opt.ngpu} '
                         f'processes')
    steps = json_list(opt.epoch_step, '--epoch_step', '[60,120,160] or [0.3,0.6,0.8]')
    if not all(type(s) is int and s > 0 or type(s) is float and 0 < s < 1 for s in steps):
        raise InputError(f'--epoch_step {opt.epoch_step}: give whole epochs from 1, or fractions '
                         f'between 0 and 1')
    opt.epoch_step = steps
    if opt.export:
        weights.check_format(opt.export)


def whole_epochs(opt):
    """Resolve the fractions in --epoch_step to epochs, the first one never: 0.3 of 200 is 60."""
    opt.epoch_step = [s if type(s) is int else max(2, round(s * opt.epochs))
                      for s in opt.epoch_step]


def check_numbers(opt, above_zero=(), zero_or_more=()):
    """Refuse values of the named options that are not finite or too small."""
    for name in above_zero:
        if not 0 < getattr(opt, name) < float('inf'):
            raise InputError(f'--{name} is {getattr(opt, name)}: give a number above zero')
    for name in zero_or_more:
        if not 0 <= getattr(opt, name) < float('inf'):
            raise InputError(f'--{name} is {getattr(opt, name)}: give zero or more')


def json_list(text, flag, example):
    """The list that a flag's text stands for."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise InputError(f"{flag} {text}: give a json list such as '{example}'")
    return value


def unusual(opt, usual):
    """What the name of a run says of its options that are not the `usual` ones ({name: value})."""
    return [f'{k}{getattr(opt, k)}' for k, v in usual.items() if getattr(opt, k) != v]


def set_up(opt):
    """Device, precision and random state of a run -> the device. Fills in `opt.dtype`."""
    device = parallel.connect()
    if opt.batch_size % parallel.world():
        raise InputError(f'--batch_size {opt.batch_size} cannot be shared evenly by '
                         f'{parallel.world()} processes')
    if opt.dtype == 'auto':
        opt.dtype = 'bfloat16' if computes_bfloat16(device) else 'float'
    if opt.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(opt.deterministic)
    torch.backends.cudnn.benchmark = not opt.deterministic
    torch.manual_seed(opt.seed)
    keep_memory()
    return device


def start(opt, work, script, argv=None):
    """work(opt, device), here or in the --ngpu processes that run `script`, the caller's file;
    `argv` are its arguments, if they are not those of the process."""
    parallel.choose_gpus(opt.gpu_id)
    if opt.ngpu > 1 and not parallel.launched():
        return parallel.launch(opt.ngpu, script, argv)
    work(opt, set_up(opt))
    parallel.disconnect()


def in_folder(train, exported=lambda params: params):
    """The work of a run: lock its folder, find what there is to go on from, train(opt, device,
    checkpoint, lines) what is missing, finish; `exported` makes what --export writes of the net."""
    def work(opt, device):
        with runs.lock(opt.save) if parallel.is_first() else contextlib.nullcontext():
            checkpoint, lines = parallel.from_first(lambda: runs.previous(opt))
            if not checkpoint or checkpoint['epoch'] < opt.epochs:
                train(opt, device, checkpoint, lines)
            if parallel.is_first():
                runs.finish(opt, exported)

    return work


def keep_memory():
    """Let glibc keep what is freed: giving the activations of each step back to the kernel and
    faulting them in again can cost time on a CPU (`bench.py cifar --ablate` says how much)."""
    if platform.libc_ver()[0] == 'glibc':
        mallopt, mmap_max, trim_threshold = ctypes.CDLL(None).mallopt, -4, -1   # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2 ** 31 - 1)


def computes_bfloat16(device):
    """Whether the device has instructions for bfloat16 products."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(re.search(r'\b(avx512_bf16|amx_bf16|bf16)\b', runs.cpuinfo()))


def run(main):
    """Call main() and end the process: 0 done, 2 bad input, 1 failure while running (each one
    line, no traceback), 130 interrupted."""
    status = 0
    try:
        main()
    except (InputError, RunError) as e:
        parallel.leave_it_to_the_first()
        print(f'error: {e}', file=sys.stderr)
        status = 2 if isinstance(e, InputError) else 1
    except RuntimeError:
        if parallel.launched():     # another process, with which this one spoke, says what is wrong
            time.sleep(2 * parallel.PATIENCE)
        raise
    except BrokenPipeError:     # what reads our output has enough of it, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        if parallel.is_first():
            print('interrupted; the same command continues a training from its last finished '
                  'epoch', file=sys.stderr)
        status = 130
    if status in (1, 2):
        parallel.leave()
    sys.exit(status)


# ---- the loop -----------------------------------------------------------------------------------

def learning_rate(opt, epoch):
    """In the given epoch, counted from 1 as --epoch_step counts."""
    return opt.lr * opt.lr_decay_ratio ** sum(s <= epoch for s in opt.epoch_step)


def sgd(opt, params, epoch):
    """A new optimizer, its momentum zero, for the entries of `params` that take a gradient."""
    return torch.optim.SGD([v for v in params.values() if v.requires_grad],
                           learning_rate(opt, epoch), MOMENTUM, weight_decay=opt.weight_decay)


def parameter_dtype(opt):
    return torch.float64 if opt.dtype == 'double' else torch.float32


def on_device(params, opt, device, fixed=False):
    """Copies of parameters as the loop wants them: on the device, filters in channels_last. Filters
    and matrices that are `fixed` are kept as autocast would make them anew in each step.

    Nothing shares memory with what was given: a net that is trained from a source and that source
    may come from one dict, and the source must not move with the net.
    """
    def place(v):
        low = fixed and opt.dtype == 'bfloat16' and v.ndim > 1
        layout = torch.channels_last if v.ndim == 4 else torch.preserve_format
        placed = v.detach().to(device, torch.bfloat16 if low else parameter_dtype(opt),
                               copy=True, memory_format=layout)
        return torch.nn.Parameter(placed) if v.requires_grad and not fixed else placed

    return {k: place(v) for k, v in params.items()}


def restore(params, state, optimizer):
    """Put a checkpoint's state into `params` (in place), torch's generators and the optimizer,
    whose rates and decays stay those of the options."""
    weights.check_same(state['params'], runs.trained(params), state['path'])
    for k, v in runs.trained(params).items():
        v.data.copy_(state['params'][k])
    if 'random' in state:
        runs.set_random_state(state['random'])
        stay = [{k: group[k] for k in ('lr', 'weight_decay')} for group in optimizer.param_groups]
        optimizer.load_state_dict(state['optimizer'])
        for group, values in zip(optimizer.param_groups, stay, strict=True):
            group.update(values)


def right_answers(logits, targets):
    """The number of images whose class is the likeliest, and among the five likeliest, (2,)."""
    best = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
    return torch.stack([best[:, 0].sum(), best.sum()])


def batch_sums(loss, logits, targets, parts, finite):
    """What is added up over an epoch, on the device: images, loss, right answers (of one guess and
    of five), steps, the steps whose losses were all finite so far, and the objective's parts."""
    n = torch.full_like(loss, len(targets), dtype=torch.double)
    return torch.stack([n, loss * n, *right_answers(logits, targets), torch.ones_like(n), finite,
                        *(p * n for p in parts)]).detach()


def averages(sums, where):
    """What an epoch added up in all processes, read off the device -> loss, accuracy in percent of
    one guess and of five, parts."""
    n, loss, right, right5, steps, finite, *parts = parallel.total(sums).tolist()
    if finite < steps:
        raise RunError(f'the loss is not finite in step {int(finite / parallel.world()) + 1} of '
                       f'{where}; nothing was saved since the epoch before. Try a smaller --lr, a '
                       f'smaller weight of the loss that a method adds, or --dtype float')
    meters = [AverageValueMeter() for _ in (loss, right, right5, *parts)]
    for meter, value in zip(meters, (loss, 100 * right, 100 * right5, *parts), strict=True):
        meter.add(value / n)
    loss, accuracy, accuracy5, *parts = (meter.value()[0] for meter in meters)
    return loss, accuracy, accuracy5, parts


def progress(device):
    """A bar for one epoch after another, quiet when stderr is no terminal -> (start, step, stop).

    What it shows was copied off the device some steps ago, so that nothing waits for the device.
    """
    bar, host = None, torch.zeros(3, dtype=torch.float64, pin_memory=device.type == 'cuda')

    def start(title, n):
        nonlocal bar
        host.zero_()
        bar = tqdm(desc=title, total=n, unit=' images', leave=False, dynamic_ncols=True,
                   disable=None if parallel.is_first() else True)

    def step(sums, n, t):
        bar.update(n * parallel.world())
        if not bar.disable and t % 10 == 0:
            n, loss, right = host.tolist()
            if n:
                bar.set_postfix(loss=f'{loss / n:.3f}', error=f'{100 - 100 * right / n:.1f}%')
            host.copy_(sums[:3], non_blocking=True)

    return start, step, lambda: bar.close()


def add_up(engine, device, step):
    """Make the engine add up, on the device, what `averages` reads -> (reset, read). `step(sums,
    images, steps)` is called after each training step."""
    tally = {}

    def reset():
        tally.update(steps=0, finite=torch.ones((), device=device),
                     sums=torch.zeros(6, dtype=torch.double, device=device))

    def on_sample(state):
        state['sample'] = (*state['sample'], state['train'])

    def on_forward(state):
        _, targets, mode = state['sample']
        logits, parts = state['output']
        tally['steps'] += 1
        tally['finite'] = tally['finite'] * state['loss'].detach().isfinite()
        sums = batch_sums(state['loss'], logits, targets, parts, tally['finite'])
        sums[:len(tally['sums'])] += tally['sums']      # shorter before the first parts
        tally['sums'] = sums
        if mode:
            step(tally['sums'], len(targets), tally['steps'])

    engine.hooks.update(on_sample=on_sample, on_forward=on_forward)
    return reset, lambda where: averages(tally['sums'], where)


def precision(opt, device):
    """The context in which nets are computed: bfloat16 by autocast, or as the parameters are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=opt.dtype == 'bfloat16')


def compiled(objective, params, device):
    """The objective compiled; on a GPU into CUDA graphs, which replay a step's kernels at once."""
    if device.type != 'cuda':
        return torch.compile(objective)
    for v in params.values():       # they stay where they are: BN's statistics may be updated there
        torch._dynamo.mark_static_address(v)
    return torch.compile(objective, mode='reduce-overhead')


def test_errors(opt, f, params, test, device):
    """Top-1 and top-5 error of a net (f, params) over the batches of `test`, in percent."""
    right = torch.zeros(2, dtype=torch.long, device=device)
    with torch.no_grad(), precision(opt, device):
        for inputs, targets in test[1]():
            right += right_answers(f(inputs, params, False)[0], targets)
    return [100 - 100 * v / test[0] for v in parallel.total(right).tolist()]


def closure(opt, objective, params, beta, device):
    """The objective as the engine calls it; in training its gradients are averaged over the
    processes."""
    learn = parallel.averaged(objective, params)

    def h(sample):
        inputs, targets, mode = sample
        with precision(opt, device):
            loss, logits, parts = (learn(*sample, beta) if mode else
                                   objective(params, inputs, targets, mode, beta))
        return loss, (logits, parts)

    return h


def count_parameters(params):
    """The number of trained parameters of the student."""
    return sum(v.numel() for k, v in params.items() if k.startswith('student.') and v.requires_grad)


def summary(z, n):
    """An epoch's line for the screen, of its numbers in the log and n training images."""
    return (f'epoch {z["epoch"]}/{z["epochs"]}  train loss {z["train_loss"]:.4f} error '
            f'{100 - z["train_acc"]:.2f} %  test loss {z["test_loss"]:.4f} error '
            f'{100 - z["test_acc"]:.2f} %  {z["train_time"]:.1f} s, '
            f'{n / z["train_time"]:.0f} images/s')


def fit(opt, checkpoint, lines, objective, params, train, test, num_classes, device,
        beta=lambda epoch: 0., make_optimizer=None, rate=None, validation=None, notes=None,
        before=lambda epoch: False):
    """Train `params` (a flat dict, the student's entries under 'student.', in place) and log.

    opt: the options, those of `add_flags` and the script's own
    checkpoint, lines: what `runs.previous` found to go on from
    objective(params, inputs, targets, mode, beta) -> loss, logits (B, K) and a list of scalars,
        logged as 'at_losses'
    train, test: (number of images, function that gives an epoch's batches): inputs (B, 3, H, W)
        and targets (B,) on the device
    beta(epoch): what the objective gets as `beta` in an epoch, a tensor (); epochs count from 1
    make_optimizer: in place of `sgd`
    rate(epoch, step): the learning rate of a step, both counted from 1, of which the optimizer's
        groups take their 'scale'; None: that of `learning_rate`, with a new optimizer, whose
        momentum starts from zero, at each drop
    validation: a further test set, logged as 'val_loss', 'val_acc' and 'val_acc5'
    notes(lines): what is logged besides in an epoch, whose line is the last of `lines`, a dict
    before(epoch): called as an epoch begins; may change `params` in place, and then gives True: the
        optimizer is a new one
    """
    folder = pathlib.Path(opt.save)
    done = checkpoint['epoch'] if checkpoint else 0
    weight = torch.zeros((), device=device)
    h = closure(opt, objective, params, weight, device)
    make_optimizer = make_optimizer or sgd
    optimizer = make_optimizer(opt, params, max(1, done))
    if checkpoint:
        restore(params, checkpoint, optimizer)
    news = {'continued': runs.environment(opt, device)} if lines else {}
    lines = lines or [{**vars(opt), **runs.environment(opt, device)}]
    counts = dict(num_classes=num_classes, n_parameters=count_parameters(params))
    engine, timer, now = Engine(), TimeMeter(False), {}
    bar_start, bar_step, bar_stop = progress(device)

    def step(sums, n, t):
        bar_step(sums, n, t)
        for group in now['optimizer'].param_groups if rate else ():
            group['lr'] = group['scale'] * rate(now['epoch'], t)

    reset, read = add_up(engine, device, step)

    def tested(batches, name, epoch):
        reset()
        with torch.no_grad():
            engine.test(h, batches[1]())
        loss, acc, acc5, _ = read(f'the test after epoch {epoch}')
        return {f'{name}_loss': loss, f'{name}_acc': acc, f'{name}_acc5': acc5}

    def on_start(state):
        if state['train']:
            state['epoch'] = done

    def on_start_epoch(state):
        epoch = state['epoch'] + 1
        if before(epoch) or epoch in opt.epoch_step and not rate:   # the momentum starts from zero
            state['optimizer'] = make_optimizer(opt, params, epoch)
        now.update(epoch=epoch, optimizer=state['optimizer'])
        weight.fill_(beta(epoch))
        state['iterator'] = train[1]()
        bar_start(f'epoch {epoch}/{opt.epochs}', train[0])
        reset()
        timer.reset()

    def on_end_epoch(state):
        names = 'train_loss', 'train_acc', 'train_acc5', 'at_losses'
        z = dict(zip(names, read(f'epoch {state["epoch"]}'), strict=True),
                 train_time=timer.value(), epoch=state['epoch'], beta_now=weight.item(), **counts)
        bar_stop()
        parallel.share_statistics(params)
        if validation:
            z |= tested(validation, 'val', z['epoch'])
        timer.reset()
        z |= tested(test, 'test', z['epoch'])
        lines.append({**vars(opt), **z, 'test_time': timer.value(), **news})
        lines[-1].update(notes(lines) if notes else {})
        news.clear()
        if parallel.is_first():
            runs.save_epoch(folder, opt, lines, params, state['optimizer'])
        print(summary(lines[-1], train[0]), flush=True)

    engine.hooks.update((f.__name__, f) for f in (on_start, on_start_epoch, on_end_epoch))
    if parallel.is_first():
        runs.write_log(folder / 'log.txt', lines)
    print(f'{folder}: epochs {done + 1} to {opt.epochs} on {runs.device_name(device)}, {opt.dtype}')
    engine.train(h, None, opt.epochs, optimizer)
