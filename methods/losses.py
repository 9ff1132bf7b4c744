"""The one objective of all scripts, and the table of methods, whose losses it adds to
cross-entropy.

A method of your own is a function of a `Batch` and a line in METHODS: see docs/extending.md.
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
    """What a net computes: logits (B, K), in float at least; the outputs of its groups; the outputs
    of the layers that a method looks at, {name: output}."""
    logits: Tensor
    groups: tuple
    taps: dict[str, Tensor]


class Batch(NamedTuple):
    """What a method sees of a training batch.

    opt: the options. params: all entries: those of the student, which is the net that is trained,
    under 'student.', those of the teacher or source under 'teacher.', those of learned attention
    under 'attention.'. net(inputs, params, mode, base): the student's function. inputs
    (B, 3, H, W); labels (B,), fewer than inputs if the rest is of another domain. student, teacher:
    what the nets compute; None without a teacher or source that computes something.
    """
    opt: object
    params: dict[str, Tensor]
    net: Callable
    inputs: Tensor
    labels: Tensor
    student: Outputs
    teacher: Outputs | None


class Method(NamedTuple):
    """losses(batch) -> scalars, which are added up, or two lists, of which the second is only
    logged. None: cross-entropy alone.

    needs: what the student is compared with: 'teacher'; 'features' or 'parameters' of its source;
    'target', another domain; '' for nothing. where: 'teaching' for cifar.py and imagenet.py,
    'fine-tuning' for finetune.py, '' for all. alpha, beta, weight_decay, positions: defaults of
    finetune.py. twice: whether the losses hold gradients with respect to the input.
    """
    losses: Callable | None
    needs: str = ''
    where: str = ''
    alpha: float = 0.
    beta: float = 1e-4
    weight_decay: float = 1e-4
    positions: str = ''
    twice: bool = False


in_teaching, in_fine_tuning = (functools.partial(Method, where=where)
                               for where in ('teaching', 'fine-tuning'))
of_features = functools.partial(in_fine_tuning, needs='features', beta=.01, weight_decay=0.)
of_domains = functools.partial(in_fine_tuning, needs='target', beta=5e-4, weight_decay=5e-4)
METHODS = {
    'l2': in_fine_tuning(None),
    'l2_sp': in_fine_tuning(from_source.l2_sp_loss, needs='parameters', alpha=.1, beta=.01,
                            weight_decay=0.),
    'feature_map': of_features(from_source.feature_map_loss, alpha=.64, positions='mean'),
    'delta': of_features(from_source.delta_loss, alpha=.64, positions='mean'),
    'afd': of_features(from_source.afd_loss, alpha=.01, beta=0., positions='sum'),
    'ast': of_features(from_source.ast_loss, alpha=.1, positions='sum'),
    'act': of_features(from_source.act_loss, alpha=.15, positions='sum'),
    'ast_act': of_features(from_source.ast_act_loss, alpha=.1, positions='sum'),
    'at': Method(from_teacher.attention, needs='teacher', alpha=1e3),
    # elsewhere it is not a --method, but has the flag --alpha
    'kd': in_fine_tuning(from_teacher.soft_targets, needs='teacher', alpha=.9),
    'ddc': of_domains(domains.ddc, alpha=.25),
    'dan': of_domains(domains.dan, alpha=1.),
    'f_actt': in_teaching(from_teacher.activations, needs='teacher'),
    'grad_at': in_teaching(from_teacher.gradient_attention, needs='teacher', twice=True),
    'min_l2': in_teaching(from_teacher.gradient_penalty, twice=True),
    'symmetry': in_teaching(from_teacher.symmetry_norm, twice=True),
}


def methods_of(where):
    """Return the methods that --method of the scripts for 'teaching' or 'fine-tuning' takes."""
    return {k: m for k, m in METHODS.items() if m.where in ('', where)}


def outputs_of(f, inputs, params, mode, base, layers):
    """Compute the `Outputs` of a net f, whose entries are under `base`, and of its `layers`."""
    taps = {base + k: None for k in layers} if layers else None
    logits, groups = f(inputs, params, mode, base, taps)
    return Outputs(utils.at_least_float(logits), groups, utils.without_prefix(taps or {}, base))


def make_objective(opt, f_s, f_t=None, layers=(), terms=()):
    """Make the objective of a net f_s, a pure function for `step.State`: cross-entropy plus
    weighted losses; on test images cross-entropy alone.

    f_t: the function of the teacher or source, if there is one. layers: the names of the layers
    whose outputs methods look at. terms: [(key of METHODS, weight)]; the one of weight None has the
    weight of the state, and its losses are logged.
    """
    methods = [(METHODS[name], weight) for name, weight in terms if METHODS[name].losses]
    twice = any(m.twice for m, _ in methods)
    teacher_twice = any(m.twice and m.needs == 'teacher' for m, _ in methods)

    def objective(params, inputs, labels, mode, weight):
        if not (mode and methods):
            logits = utils.at_least_float(f_s(inputs, params, mode, 'student.')[0])
            return F.cross_entropy(logits, labels), logits, []
        if twice:
            inputs = inputs.detach().requires_grad_()
        teacher = None
        if f_t is not None:
            with torch.set_grad_enabled(teacher_twice):
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
