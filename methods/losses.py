"""The one objective of all scripts, and the table of methods that can be added to cross-entropy.

A method of your own is a function of a `Batch` and a line in METHODS; docs/extending.md has an
example.
"""
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import utils
from methods import domains, from_source, from_teacher


class Outputs(NamedTuple):
    """What a net computes: logits (B, K), in float at least; the outputs of its groups; those of
    the layers that are looked at, {name: output}."""
    logits: Tensor
    groups: tuple
    taps: dict[str, Tensor]


class Batch(NamedTuple):
    """What a method sees of a training batch.

    opt: the options. params: all entries, the student's (the net that is trained) under 'student.',
    the teacher's or source's under 'teacher.', attention's under 'attention.'. net(inputs, params,
    mode, base): the student's function. inputs (B, 3, H, W); labels (B,), fewer than inputs where
    the rest is of another domain. teacher: None, where nothing is computed by one.
    """
    opt: object
    params: dict[str, Tensor]
    net: Callable
    inputs: Tensor
    labels: Tensor
    student: Outputs
    teacher: Outputs | None


class Method(NamedTuple):
    """losses(batch) -> scalars, which are added, or two lists, of which the second is logged only.

    needs: what the student is compared with: a teacher, the features or parameters of its source,
    a target domain. alpha, beta, weight_decay, positions: defaults of finetune.py. twice: the
    losses hold gradients with respect to the input; teacher_too: also the teacher's. where:
    'teaching' for cifar.py and imagenet.py, 'fine-tuning' for finetune.py, '' for all.
    """
    losses: Callable | None
    needs: str = ''
    alpha: float = 0.
    beta: float = 1e-4
    weight_decay: float = 1e-4
    positions: str = ''
    twice: bool = False
    teacher_too: bool = False
    where: str = ''


of_fine_tuning, of_teaching = (functools.partial(Method, where=where)
                               for where in ('fine-tuning', 'teaching'))
METHODS = {
    'l2': of_fine_tuning(None),
    'l2_sp': of_fine_tuning(from_source.l2_sp, 'parameters', .1, .01, 0.),
    'feature_map': of_fine_tuning(from_source.feature_map, 'features', .64, .01, 0., 'mean'),
    'delta': of_fine_tuning(from_source.delta, 'features', .64, .01, 0., 'mean'),
    'afd': of_fine_tuning(from_source.afd, 'features', .01, 0., 0., 'sum'),
    'ast': of_fine_tuning(from_source.ast, 'features', .1, .01, 0., 'sum'),
    'act': of_fine_tuning(from_source.act, 'features', .15, .01, 0., 'sum'),
    'at': Method(from_teacher.attention, 'teacher', 1e3),
    'kd': of_fine_tuning(from_teacher.soft_targets, 'teacher', .9),     # elsewhere by --alpha
    'ddc': of_fine_tuning(domains.ddc, 'target', .25, 5e-4, 5e-4),
    'dan': of_fine_tuning(domains.dan, 'target', 1., 5e-4, 5e-4),
    'f_actt': of_teaching(from_teacher.activations, 'teacher'),
    'grad_at': of_teaching(from_teacher.gradient_attention, 'teacher', twice=True,
                           teacher_too=True),
    'min_l2': of_teaching(from_teacher.gradient_penalty, twice=True),
    'symmetry': of_teaching(from_teacher.symmetry_norm, twice=True),
}


def methods_of(where):
    """Those that --method of the scripts for 'teaching' or 'fine-tuning' takes."""
    return {k: m for k, m in METHODS.items() if m.where in ('', where)}


def outputs_of(f, inputs, params, mode, base, layers):
    """Compute the `Outputs` of the net f, whose entries are under `base`, and of its `layers`."""
    taps = {base + k: None for k in layers} if layers else None
    logits, groups = f(inputs, params, mode, base, taps)
    return Outputs(utils.at_least_float(logits), groups, utils.without_prefix(taps or {}, base))


def make_objective(opt, f_s, f_t=None, layers=(), terms=()):
    """Make the objective of the net f_s, a pure function for `step.State`: cross-entropy plus
    weights times losses; on test images cross-entropy alone.

    f_t: the function of the teacher or source, if there is one. layers: the names of those whose
    outputs methods look at. terms: [(key of METHODS, weight)]; the weight None is that of the
    state, and only its losses are logged.
    """
    methods = [(METHODS[name], weight) for name, weight in terms if METHODS[name].losses]
    twice = any(m.twice for m, _ in methods)
    teacher_too = any(m.teacher_too for m, _ in methods)

    def objective(params, inputs, labels, mode, weight):
        if not (mode and methods):
            logits = utils.at_least_float(f_s(inputs, params, mode, 'student.')[0])
            return F.cross_entropy(logits, labels), logits, []
        if twice:
            inputs = inputs.detach().requires_grad_()
        teacher = None
        if f_t is not None:
            with torch.set_grad_enabled(teacher_too):
                teacher = outputs_of(f_t, inputs, params, False, 'teacher.', layers)
        student = outputs_of(f_s, inputs, params, True, 'student.', layers)
        student = student._replace(logits=student.logits[:len(labels)])     # the rest has no labels
        batch = Batch(opt, params, f_s, inputs, labels, student, teacher)
        loss, logged = F.cross_entropy(student.logits, labels), []
        for method, own in methods:
            found = method.losses(batch)
            losses, more = found if isinstance(found, tuple) else (found, [])
            loss = loss + (weight if own is None else own) * sum(losses)
            logged += [*losses, *more] if own is None else []
        return loss, student.logits, logged

    return objective
