"""The training loop of all scripts: epochs, tests, log and checkpoint of one run, or of several.

torchnet's Engine goes through epochs and batches; what an epoch adds up stays on the device and is
read once. Several runs are trained side by side on a GPU, all steps in one graph, and in turn on a
CPU; either way each result is bitwise that of running it alone.
"""
import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import sys
import time
import types
from collections.abc import Callable

import torch
from torchnet.engine import Engine

from engine import graphs, progress, runs, step
from system import interrupts, processes
from system.threads import Pace
from utils import InputError, RunError
from weights import store


@dataclasses.dataclass(eq=False)
class Training:
    """One run, as `fit` trains it: `state.params` has the student's entries under 'student.'.

    opt: the options, those of engine/script.py and the script's own
    train, test, validation: sets, `data.arrays.Images`; the last is a further test set, if any
    generator: for order and augmentation and, if there is any (`is_random`), dropout
    checkpoint, lines: what `runs.previous` found to continue from
    weight(epoch): the objective's `weight` in an epoch; epochs count from 1
    objective(epoch): the objective of an epoch, if it is not the state's in all of them
    rate(epoch, step): the learning rate of a step, counted from 1; None: `learning_rate`; the
        momentum buffers are reset when it drops
    logged(lines): what else is logged of an epoch, whose line is the last of `lines`, a dict
    on_epoch(epoch): called as an epoch begins; may change the parameters in place, and then returns
        True: the momentum buffers are reset
    log_extra: what log and checkpoint say of the whole run, besides its options
    """
    opt: argparse.Namespace
    state: step.State
    train: object
    test: object
    classes: int
    generator: torch.Generator
    checkpoint: dict | None = None
    lines: list = dataclasses.field(default_factory=list)
    validation: object = None
    weight: Callable = lambda epoch: 0.
    objective: Callable | None = None
    rate: Callable | None = None
    logged: Callable = lambda lines: {}
    on_epoch: Callable = lambda epoch: False
    is_random: bool = False
    log_extra: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.epoch = self.checkpoint['epoch'] if self.checkpoint else 0     # the last finished one
        self.kept = self.epoch      # that of the last checkpoint
        self.steps, self.seconds, self.saved = 0, 0., -math.inf
        self.failure, self.continued, self.pace = '', {}, None
        self.tasks = {name: self.task(name) for name in ('train', 'validation', 'test')
                      if getattr(self, name)}

    def task(self, name):
        images, training = getattr(self, name), name == 'train'
        take = step.train_step if training else step.test_step
        changes = step.changed_by(self.state) if training else [self.state.sums]
        return graphs.Task(lambda *batch: take(self.state, *images.make(*batch)),
                           [*changes, *images.state])

    @property
    def folder(self):
        return pathlib.Path(self.opt.save)

    @property
    def is_done(self):
        return not self.failure and self.epoch >= self.opt.epochs


def learning_rate(opt, epoch):
    """Return the learning rate in an epoch, counted from 1 as --epoch_step counts."""
    return opt.lr * opt.lr_decay_ratio ** sum(s <= epoch for s in opt.epoch_step)


# ---- one run: its beginning, its epochs ---------------------------------------------------------

def begin(t, device):
    """Continue from the checkpoint, if there is one; write the log's first line."""
    if t.is_random and device.type == 'cuda':
        torch.cuda.manual_seed(t.opt.seed)
    if t.checkpoint:
        load_checkpoint(t, device)
    here = runs.environment(t.opt, device)
    t.continued = {'continued': here} if t.lines else {}
    t.lines = t.lines or [{**vars(t.opt), **t.log_extra, **here}]
    fixed = t.opt.deterministic or device.type != 'cpu' or processes.world() > 1
    t.pace = Pace(torch.get_num_threads(), fixed)
    if processes.is_first():
        runs.write_log(t.folder / 'log.txt', t.lines)
    beyond = 1 < t.opt.epochs < min(t.opt.epoch_step, default=0)
    stays = beyond and getattr(t.opt, 'schedule', 'step') == 'step'
    print(f'{t.folder}: epochs {t.epoch + 1} to {t.opt.epochs} on {runs.device_name(device)}, '
          f'{t.opt.dtype}' + f'; the learning rate does not drop before --epoch_step '
          f'{t.opt.epoch_step}' * stays, flush=True)


@torch.no_grad()
def load_checkpoint(t, device):
    """Put a checkpoint's state into that of the run, in place."""
    its, own = t.checkpoint, t.state
    store.check_same(its['params'], runs.student_of(own.params), its['path'])
    for k, v in runs.student_of(own.params).items():
        v.copy_(its['params'][k])
    for k, v in own.momenta.items():
        v.copy_(its.get('momenta', {}).get(k, torch.zeros(())))
    if 'random' in its:
        t.generator.set_state(its['random']['cpu'])
        if its['random']['cuda'] and device.type == 'cuda':
            torch.cuda.set_rng_state(its['random']['cuda'][0])


def begin_epoch(t):
    """Set what an epoch starts with -> whether its objective differs from the last epoch's, so that
    graphs of steps are out of date."""
    epoch, before = t.epoch + 1, t.state.objective
    if t.objective:
        t.state = t.state._replace(objective=t.objective(epoch))
    own = t.state
    if t.on_epoch(epoch) or epoch in t.opt.epoch_step and not t.rate:
        for v in own.momenta.values():
            v.zero_()
    own.rate.fill_(t.rate(epoch, 1) if t.rate else learning_rate(t.opt, epoch))
    own.weight.fill_(t.weight(epoch))
    own.sums.zero_()
    t.steps = 0
    return own.objective is not before


def next_step(t):
    """Count a step, and set its learning rate, if that differs from the last step's."""
    t.steps += 1
    if t.rate and t.steps > 1:
        value = t.rate(t.epoch + 1, t.steps)
        if value != t.rate(t.epoch + 1, t.steps - 1):
            t.state.rate.fill_(value)


def averages(sums, where):
    """Read what an epoch added up in all processes off the device -> loss, top-1 and top-5 accuracy
    in percent, parts. RunError, if a loss was not finite."""
    n, loss, right, right5, steps, finite, given, *parts = processes.total(sums).tolist()
    if finite < steps:      # the sum counts the steps before the first that was not
        raise RunError(f'the loss is not finite in step {int(finite / processes.world()) + 1} of '
                       f'{where}. Try a smaller --lr, a smaller weight of the loss that a method '
                       f'adds, or --dtype float')
    parts = parts[:round(given / max(1, steps))]
    return loss / n, 100 * right / n, 100 * right5 / n, [part / n for part in parts]


def read_sums(t, where, *names):
    """Return the `averages` of a run by their names in the log, and set its sums to zero; None for
    all, if its loss was not finite, as its `failure` then says."""
    found = [None] * 4
    try:
        found = averages(t.state.sums, where)
    except RunError as e:
        kept = f'The last checkpoint is of epoch {t.kept}' if t.kept else 'There is no checkpoint'
        t.failure = f'{e}. {kept}'
    t.state.sums.zero_()
    return dict(zip(names, found, strict=False))


def log_epoch(t, z, device, save):
    """Log and print an epoch, whose numbers are `z`; write a checkpoint, if it is time or `save`
    is true."""
    opt, own = t.opt, t.state
    t.lines.append({**vars(opt), **z, 'epoch': t.epoch, 'beta_now': t.weight(t.epoch),
                    'num_classes': t.classes, 'n_parameters': sum(
                        v.numel() for k, v in own.momenta.items() if k.startswith('student.')),
                    'threads': t.pace.most_used(), **t.continued})
    t.lines[-1].update(t.logged(t.lines))
    t.continued = {}
    if processes.is_first():
        if save or t.is_done or time.monotonic() - t.saved >= opt.save_every:
            cuda = [torch.cuda.get_rng_state()] if t.is_random and device.type == 'cuda' else []
            runs.save_checkpoint(t.folder, {**vars(opt), **t.log_extra}, t.lines[-1], own,
                                 dict(cpu=t.generator.get_state(), cuda=cuda))
            t.saved, t.kept = time.monotonic(), t.epoch
        runs.write_log(t.folder / 'log.txt', t.lines)
    print(summary(t, t.lines[-1]), flush=True)


def tested_on(z):
    """Return what the numbers named test_ in the log are of: images held out, if those take the
    place of the test set."""
    return 'held-out' if z['validate'] and 'val_acc' not in z else 'test'


def summary(t, z):
    """Return an epoch's line for the screen, from its numbers in the log."""
    return (f'{t.folder}: epoch {z["epoch"]}/{z["epochs"]}  train loss {z["train_loss"]:.4f} error '
            f'{100 - z["train_acc"]:.2f} %  {tested_on(z)} loss {z["test_loss"]:.4f} error '
            f'{100 - z["test_acc"]:.2f} %  {z["train_time"]:.1f} s, '
            f'{t.train.n / z["train_time"]:.0f} images/s')


# ---- all of them --------------------------------------------------------------------------------

def together(trainings, name):
    """Yield the batches of a pass over a set of each run, as samples [(run, batch)] of steps that
    are taken at once. Each run's `seconds` are its share of the time."""
    begun = time.perf_counter()
    batches = [getattr(t, name).epoch(t.generator) for t in trainings]
    for sample in zip(*batches, strict=True):
        yield list(zip(trainings, sample, strict=True))
    torch.cuda.synchronize()
    share = (time.perf_counter() - begun) / len(trainings)
    for t in trainings:
        t.seconds = share


def in_turn(trainings, name):
    """Yield samples like `together`, but of one run after another; what dropout draws comes from
    the run's own generator."""
    for t in trainings:
        begun = time.perf_counter()
        batches = getattr(t, name).epoch(t.generator)
        with runs.drawing_from(t.generator) if t.is_random else contextlib.nullcontext():
            for batch in batches:
                yield [(t, batch)]
        if t.state.sums.is_cuda:
            torch.cuda.synchronize()
        t.seconds = time.perf_counter() - begun


def take_training_steps(sample, take):
    """Take the training steps of a sample, with as many threads as the first run's pace says."""
    interrupts.check()
    for t, _ in sample:
        next_step(t)
    pace = sample[0][0].pace
    pace.begin()
    take([(t.tasks['train'], batch) for t, batch in sample])
    pace.end()


def why_no_graph(opt, device):
    """Return why steps are not captured on a device, and print it, if that is a GPU; '' if they
    are."""
    if device.type != 'cuda':
        return 'this is not a GPU'
    several = 'several processes average their gradients between backward pass and update'
    reason = several if processes.world() > 1 else '--no_graph' if opt.no_graph else ''
    if reason:
        print(f'steps are not captured as CUDA graphs: {reason}')
    return reason


def test(active, samples, take):
    """Test runs -> {run: what the log says of their test and validation sets}, None where a loss is
    not finite."""
    found, seconds = {t: {} for t in active}, dict.fromkeys(active, 0.)
    for name, prefix in (('validation', 'val'), ('test', 'test')):
        some = [t for t in active if name in t.tasks]
        for sample in samples(some, name) if some else ():
            interrupts.check()
            take([(t.tasks[name], batch) for t, batch in sample])
        for t in some:
            seconds[t] += t.seconds
            found[t] |= read_sums(t, f'the test after epoch {t.epoch}', f'{prefix}_loss',
                                  f'{prefix}_acc', f'{prefix}_acc5')
    return {t: {**z, 'test_time': seconds[t]} for t, z in found.items()}


def check_draws(trainings, device):
    """Raise an InputError, if runs side by side would draw from one GPU's random numbers."""
    drawing = [t for t in trainings if t.is_random]
    if drawing and len(trainings) > 1 and device.type == 'cuda':
        raise InputError(f'{drawing[0].folder}: a net with dropout draws from the random numbers '
                         f'of the GPU: train it alone there, without +')


def end_epochs(active, samples, take, device, save, alone):
    """Test and log the runs whose epoch has ended and, if it is time or `save` is true, write their
    checkpoints; set the `failure` of those that fail, and print it, unless one was `alone`."""
    trained = {}
    for t in active:
        t.epoch += 1
        trained[t] = {'train_time': t.seconds, **read_sums(
            t, f'epoch {t.epoch}', 'train_loss', 'train_acc', 'train_acc5', 'at_losses')}
        processes.share_statistics(t.state.params)
    tested = test([t for t in active if not t.failure], samples, take)
    for t in active:
        if not t.failure:
            log_epoch(t, {**trained[t], **tested[t]}, device, save)
    for t in active:
        if t.failure and not alone:
            print(f'error: {t.folder}: {t.failure}', file=sys.stderr)


def time_to_stop():
    """Return the time STOP_AT of the environment, in seconds since 1970; infinity without one.
    InputError, if it is no number."""
    text = os.environ.get('STOP_AT', 'inf')
    try:
        return float(text)
    except ValueError:
        raise InputError(f'STOP_AT is {text!r}: give a time in seconds since 1970') from None


def fit(trainings, device):
    """Train runs to their last epochs, in place and all at the same time, and log them. A run whose
    loss is not finite stops, and its `failure` says why. At `time_to_stop` all stop after the epoch
    that they are in. InputError for runs that cannot share a GPU."""
    check_draws(trainings, device)
    stop_at, threads = time_to_stop(), torch.get_num_threads()
    for t in trainings:
        begin(t, device)
    eagerly = why_no_graph(trainings[0].opt, device)
    samples = in_turn if eagerly else together
    bar_start, bar_advance, bar = progress.make_bar(trainings, device)
    active, engine = list(trainings), Engine()

    def renew_graphs(state):
        state['take'] = graphs.eager if eagerly else graphs.captured(device)

    def on_start_epoch(state):
        if any([begin_epoch(t) for t in active]):
            renew_graphs(state)     # of other steps
        bar_start(active)
        state['iterator'] = samples(active, 'train')

    def on_sample(state):
        take_training_steps(state['sample'], state['take'])
        bar_advance(state['sample'])

    def on_end_epoch(state):
        stop = processes.from_first(lambda: time.time() > stop_at)
        with bar.external_write_mode():
            end_epochs(active, samples, state['take'], device, stop, len(trainings) == 1)
        left = [t for t in active if not (t.failure or t.is_done)]
        if len(left) < len(active):
            active[:] = left
            renew_graphs(state)     # of fewer runs
        if stop or not active:
            state['maxepoch'] = state['epoch']

    engine.hooks.update(on_start=renew_graphs, on_start_epoch=on_start_epoch, on_sample=on_sample,
                        on_end_epoch=on_end_epoch)
    # a step does its own backward pass and update: there is no optimizer that the engine could call
    nothing = types.SimpleNamespace(zero_grad=lambda: None, step=lambda closure: None)
    with contextlib.closing(bar):
        engine.train(None, None, max(t.opt.epochs - t.epoch for t in trainings), nothing)
    torch.set_num_threads(threads)
