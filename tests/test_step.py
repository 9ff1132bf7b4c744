"""The step: that it is SGD, and that it is nothing but operations on tensors."""
import pytest
import torch
from helpers import METHODS, objective_of
from torch.fx.experimental.proxy_tensor import make_fx

import cifar
import utils
from engine import step
from methods import attentive, gates, losses, teaching


def small(rng):
    params = {'a': (3, 2), 'b': (3,), 'c': (4,)}
    return {f'student.{k}': torch.randn(s, generator=rng, dtype=torch.double).requires_grad_()
            for k, s in params.items()}


def objective(params, inputs, targets, mode, weight):
    """Of inputs (B, 2); 'c' takes no part."""
    logits = inputs @ params['student.a'].T + params['student.b']
    part = params['student.a'].square().sum()
    loss = torch.nn.functional.cross_entropy(logits, targets)
    return loss + weight * part, logits, [part]


@pytest.mark.parametrize('nesterov', [False, True])
def test_steps_are_those_of_torchs_sgd(nesterov):
    """With groups of other rates and decays; what has no gradient stays."""
    rng = torch.Generator().manual_seed(0)
    params = small(rng)
    theirs = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    groups = [step.Group(['student.a'], .01), step.Group(['student.b', 'student.c'], .3, 10.)]
    state = step.new_state(objective, params, 'double', groups=groups, nesterov=nesterov)
    state.rate.fill_(.05)
    state.weight.fill_(.2)
    sgd = torch.optim.SGD([
        dict(params=[theirs['student.a']], weight_decay=.01),
        dict(params=[theirs['student.b'], theirs['student.c']], weight_decay=.3, lr=.5)], .05, .9,
        nesterov=nesterov)
    total, n = 0., 0
    for t in range(5):
        x = torch.randn(4 + t, 2, generator=rng, dtype=torch.double)
        y = torch.arange(4 + t) % 3
        step.train_step(state, x, y)
        sgd.zero_grad()
        loss, logits, _ = objective(theirs, x, y, True, .2)
        loss.backward()
        sgd.step()
        total, n = total + loss.item() * len(y), n + len(y)
        for k, v in params.items():
            torch.testing.assert_close(v, theirs[k], rtol=1e-12, atol=0)
    assert theirs['student.c'].grad is None and not state.momenta['student.c'].any()
    sums = state.sums.tolist()
    assert sums[:2] == pytest.approx([n, total]) and sums[step.STEPS:step.FINITE + 1] == [5, 5]


def test_a_test_changes_nothing_but_the_sums():
    params = small(torch.Generator().manual_seed(0))
    state = step.new_state(objective, params, 'double')
    before = {k: v.detach().clone() for k, v in params.items()}
    step.test_step(state, torch.ones(4, 2, dtype=torch.double), torch.arange(4) % 3)
    assert all(torch.equal(v, before[k]) for k, v in params.items())
    assert state.sums[step.IMAGES] == 4 and state.sums[step.PARTS_GIVEN] == 0


# ---- nothing but operations on tensors ----------------------------------------------------------

def replayed(state, batches):
    """The state after steps of which the first one was recorded, operation by operation, and then
    played back for all: what a CUDA graph does. Python state, or a value that is read off a tensor,
    would not be played back, or cannot be recorded."""
    names, moved = list(state.params), list(state.momenta)

    def run(x, y, rate, weight, sums, *tensors):
        params = dict(zip(names, tensors, strict=False))
        momenta = dict(zip(moved, tensors[len(names):], strict=True))
        step.train_step(state._replace(params=params, momenta=momenta, rate=rate, weight=weight,
                                       sums=sums), x, y)
        return sums

    tensors = [state.rate, state.weight, state.sums, *state.params.values(),
               *state.momenta.values()]
    own = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    scratch = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    graph = make_fx(run)(*batches[0], *scratch)
    with torch.no_grad():
        for batch in batches:
            graph(*batch, *own)
    return own, tensors


def check_replay(state, batches):
    state.rate.fill_(.01)
    state.weight.fill_(.5)
    own, tensors = replayed(state, batches)
    for batch in batches:
        step.train_step(state, *batch)
    assert state.sums[step.STEPS] == len(batches)
    for a, b in zip(own, tensors, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('flags', [
    ['--depth', '10'],
    ['--depth', '10', '--teacher_id', 't', '--beta', '1', '--alpha', '.9'],
    ['--depth', '10', '--teacher_id', 't', '--beta', '1', '--method', 'f_actt'],
    ['--model', 'nin', '--width', '.1', '--no_bn', '--teacher_id', 't', '--beta', '1', '--method',
     'grad_at'],
    ['--model', 'nin', '--width', '.1', '--beta', '1', '--method', 'min_l2'],
    ['--model', 'nin', '--width', '.1', '--beta', '1', '--method', 'symmetry']])
def test_a_step_of_each_method_can_be_recorded(flags):
    opt = cifar.parse(['--dtype', 'double', *flags])
    torch.manual_seed(0)
    f_s, student = cifar.NETS[opt.model](opt, 10)
    f_t, teacher = cifar.NETS[opt.model](opt, 10) if opt.teacher_id else (None, {})
    params = {**utils.with_prefix(student, 'student.'),
              **{f'teacher.{k}': v.detach() for k, v in teacher.items()}}
    params = {k: v.detach().double().requires_grad_(v.requires_grad) for k, v in params.items()}
    state = step.new_state(teaching.student_objective(opt, f_s, f_t), params, 'double', 5e-4)
    check_replay(state, [(torch.randn(4, 3, 32, 32, dtype=torch.double), torch.arange(4) + i)
                         for i in range(3)])


@pytest.mark.parametrize('method', [*METHODS, 'afs'])
def test_a_step_of_each_method_of_fine_tuning_can_be_recorded(method):
    """Of AFS with gates, some of which are off."""
    kind = 'l2' if method == 'afs' else method
    opt, f, params, layers, x, y = objective_of(kind, shift=method in ('ddc', 'dan'))
    if method == 'afs':
        gated = gates.with_density(gates.with_gates(utils.without_prefix(params, 'student.')), .5)
        params = utils.with_prefix(gated, 'student.')
    if method == 'delta':
        params |= {f'teacher.channel_weights.{k}': torch.full((n,), 1 / n, dtype=torch.double)
                   for k in layers for n in [len(params[f'student.{k}'])]}
    start = utils.without_prefix(params, 'student.')
    params |= attentive.attention_of(opt, f, start, layers, 40, torch.Generator())
    params = {k: v.detach().double().clone().requires_grad_(
        not k.startswith('teacher.') and not utils.is_statistic(k)) for k, v in params.items()}
    f_t = f if any(k.startswith('teacher.') for k in params) else None
    objective = losses.make_objective(opt, f, f_t, layers, [(opt.method, None)])
    state = step.new_state(objective, params, 'double', 1e-4)
    check_replay(state, [(x, y), (x.flip(0), y), (x.flip(2), y)])
