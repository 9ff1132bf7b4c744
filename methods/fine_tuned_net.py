"""The net that is fine-tuned: its new head and its frozen parts; which of its layers a method looks
at, and what it compares them with."""
import torch

import utils
from methods import teaching
from methods.losses import METHODS
from utils import InputError
from weights import facts, folding, store
from weights.architecture import architecture_of, weight_of

# ---- the head, and what is frozen ---------------------------------------------------------------

def with_new_head(params, head, classes, bottleneck=0, dropout=0.):
    """Replace the head of a net: random weights of standard deviation 0.01 and zero biases for
    `classes` classes, after a layer of `bottleneck` channels with `dropout`, if these are not 0."""
    old = params.get(head + '.bottleneck.weight', params[head + '.weight'])
    ni, new = old.shape[1], {}
    if bottleneck:
        new[head + '.bottleneck'], ni = utils.linear_params(ni, bottleneck), bottleneck
    if bottleneck and dropout:
        new[head + '.bottleneck.dropout'] = torch.tensor(dropout)
    new[head] = {'weight': torch.randn(classes, ni) * .01, 'bias': torch.zeros(classes)}
    body = {k: v for k, v in params.items() if not k.startswith(head + '.')}
    return {**body, **utils.flatten(new)}


def bottleneck_of(opt, params):
    """Return the channels of the layer before the last one; 0 for none."""
    if opt.bottleneck is None:
        wanted = opt.method == 'ddc' or opt.dropout or opt.method == 'dan' and (
            opt.mmd_layers == 'bottleneck' or architecture_of(params).arch != 'alexnet')
        return 256 if wanted else 0
    return opt.bottleneck


FROZEN = ('first_group', 'bn', 'bn_statistics', 'body')


def freeze(f, params, what, head):
    """Return the net with `requires_grad` set, but not for the parts `what`, names in FROZEN."""
    norms = [b for b in folding.normalisations(f, params) if b + '.running_mean' in params]
    of_norms = {f'{b}.{k}' for b in norms for k in ('weight', 'bias')}
    frozen = set(facts.first_group(f, params)) if 'first_group' in what else set()
    frozen |= of_norms if 'bn' in what else set()
    frozen |= {k for k in params if not k.startswith(head + '.')} if 'body' in what else set()
    fixed = [b for b in norms if f'{b}.weight' in frozen or {'bn', 'bn_statistics'} & set(what)]
    params = utils.fix_statistics(params, fixed)
    utils.set_requires_grad_except_bn_(params)
    for k in frozen & set(params):
        params[k].requires_grad_(False)
    return params


# ---- the layers that are looked at --------------------------------------------------------------

def tapped(opt, params):
    """Return the names of the layers that a method looks at in a net, as `taps` has them."""
    needs, found = METHODS[opt.method].needs, architecture_of(params)
    if needs != 'target':
        return stages(params) if needs == 'features' else []
    if opt.method == 'ddc' or opt.mmd_layers == 'bottleneck':
        return [found.head + '.input']
    wide = [found.head + '.bottleneck'] if found.head + '.bottleneck.weight' in params else []
    return [*found.hidden, *wide, found.head]       # all linear layers, in order


def stages(params):
    """Return the name of the last convolution of each stage. InputError for nets without stages."""
    found = architecture_of(params).stages
    if not found:
        raise InputError('this net has no known layers to compare; residual nets, MobileNetV2 and '
                         'AlexNet have')
    return list(found)


def check_stages(name, params, start):
    """Raise an InputError, if the outputs of the stages of the net `name` cannot be compared with
    those of the net `start`."""
    ours, its = ([(k, len(p[weight_of(p, k)])) for k in architecture_of(p).stages]
                 for p in (start, params))
    if its != ours:
        raise InputError(f'the features of {name} cannot be compared with those of --source: give '
                         f'the same net')


# ---- what the net is compared with --------------------------------------------------------------

def reference(opt, f, start, head, layers, pixels, load_net):
    """Return what the target net, which starts as (f, start), is compared with: (f or None,
    params). InputError for a --teacher that cannot be compared; load_net(name, any_head) loads
    it."""
    needs = METHODS[opt.method].needs
    if opt.teacher:
        f, outputs, params, path = load_net(opt.teacher, any_head=needs == 'features')
        its = store.options(path).get('input_pixels', pixels)
        if its != pixels:
            raise InputError(f'the teacher {opt.teacher} was trained with --pixels {its}, not '
                             f'{pixels}')
        if needs == 'teacher':
            teaching.check_classes(opt.teacher, outputs, len(start[head + '.weight']),
                                   'the data set')
            return f, folding.fold(params)
        check_stages(opt.teacher, params, start)
        if folding.folded(f, params):
            raise InputError(f'the teacher {opt.teacher} has its batch normalisation folded away, '
                             f'so that its features differ from those of the net')
        start = params
    start = {k: v.detach() for k, v in start.items()}
    if needs == 'parameters':
        return None, {k: v for k, v in start.items() if not k.startswith(head + '.') and
                      not utils.is_statistic(k) and (opt.sp == 'all' or v.ndim > 1)}
    return (f, folding.fold(start, keep=layers)) if needs == 'features' else (None, {})
