"""Fine-tuning without ImageNet: from CIFAR-100 to a few images per class of CIFAR-10.

These tables are in no paper. L2-SP, DELTA, AFD, AFDS and AFA were published with ImageNet weights
and large images; here they are compared in a setting that anyone can rerun. Each seed has its own
source, a net of the table cifar100, and is tested on all 10,000 test images. Two are small enough
for a CPU: transfer-resnet20, the other way round, from a published net, and transfer-shapes.
"""
from papers.pruning import pruning_rows
from papers.rows import choice, choices, joined, part_of_table, row, table

# the published values, until transfer-choices has been run
LR = .01
SCRATCH_LR = .1
ALPHA = {'l2_sp': .1, 'feature_map': .64, 'delta': .64, 'afd': .01, 'ast': .1, 'act': .15,
         'at': 1000., 'kd': .9}
STEPS, PRUNED_STEPS = 6000, 12000
LABELS = {'l2_sp': 'L2-SP', 'feature_map': 'feature map', 'delta': 'DELTA', 'afd': 'AFD',
          'ast': 'AFA, stage one', 'act': 'AFA, stage two', 'at': 'AT', 'kd': 'KD'}

PER_CLASS = (10, 50, 500)
SOURCES = {'wrn': ('WRN-40-2', '--source @cifar100/wrn_40_2'),
           'resnet': ('ResNet-32x4', '--source @cifar100/resnet32x4')}
WRN, SCRATCH = SOURCES['wrn'][1], '--arch wrn-40-2'
AS_CIFAR = '--weight_decay 5e-4 --beta 5e-4'        # cifar.py's decay


def iterations(steps, epochs=12):
    """Return the options of training for so many steps in so many epochs."""
    return f'--iterations {steps} --steps_per_epoch {steps // epochs}'


HALF = iterations(STEPS // 2)


def by(method, alpha, source, teacher='', half=HALF, lr=LR):
    """Return the options of a method. Each stage of AFA has half of the steps; the second one has a
    tenth of the learning rate, as published."""
    more = {'delta': '--channel_weights compute', 'ast': half,
            'act': f'--keep_head --lr {lr / 10:g} {half}', 'kd': f'--teacher @{teacher}',
            'at': f'--teacher @{teacher} --at_groups [0,1,2]'}
    return f'{source} --method {method} --alpha {alpha:g} {more.get(method, "")}'


def methods(source, teacher, half=HALF, alphas=ALPHA, lr=LR):
    """Make the rows {name: row} of one net on one set of images; AT and KD are among them if there
    is a row `teacher` to learn from."""
    rows = {'l2': row('L2', options=source, seeds=3)}
    for k, label in LABELS.items():
        if teacher or k not in ('at', 'kd'):
            start = '--source @ast' if k == 'act' else source
            rows[k] = row(label, options=by(k, alphas[k], start, teacher, half, lr),
                          plain='' if k == 'ast' else 'l2', seeds=3)
    return rows


def of_images(net, n):
    """Make the rows of a net of SOURCES, fine-tuned on n images per class. For the WRN the teacher
    of AT and KD is the better net, fine-tuned on the same images."""
    label, source = SOURCES[net]
    teacher = f'resnet_{n}_l2' if net == 'wrn' else ''
    rows = methods(source, teacher)
    if net == 'wrn':
        scratch = row('from scratch', options=f'{SCRATCH} --lr {SCRATCH_LR:g} {AS_CIFAR}', seeds=3)
        rows = {'scratch': scratch, **rows}
    return part_of_table(f'{net}_{n}', f'{label}, {n} per class', f'--per_class {n}', rows)


def holding_out(n):
    """Return the options of training on n images per class, on average, and holding 5,000 out."""
    return f'--per_class {n + 500} --validate 5000'


def alphas(grid, *setting):
    """Make the rows of grids of α, {method: values}, with the rest of the arguments of `by`."""
    return {f'{method}_{v:g}': choice(f'{LABELS[method]}, α = {v:g}', by(method, v, *setting))
            for method, values in grid.items() for v in values}


CHOICES = {
    **choices('l2', 'L2, learning rate', f'{WRN} --lr', (.1, .03, .01, .003, .001)),
    **choices('scratch', 'from scratch, learning rate', f'{SCRATCH} {AS_CIFAR} --lr',
              (.1, .03, .01)),
    **{f'l2_{n}_{k}': choice(f'L2, {n} per class, {k:,} steps',
                             f'{WRN} {holding_out(n)} {iterations(k)}')
       for n in PER_CLASS for k in (STEPS // 2, STEPS, 2 * STEPS)},
    'resnet': choice('ResNet-32x4, L2, the teacher', SOURCES['resnet'][1]),
    **alphas({'l2_sp': (1, .1, .01, .001), 'feature_map': (6.4, .64, .064, .0064),
              'delta': (6.4, .64, .064, .0064), 'afd': (.1, .01, .001, .0001),
              'ast': (1, .1, .01, .001), 'at': (100, 1000, 10000), 'kd': (.5, .9)}, WRN, 'resnet'),
    **alphas({'act': (1.5, .15, .015, .0015)}, f'--source @ast_{ALPHA["ast"]:g}'),
    **{f'{kind}_{k}': choice(f'{label} to 1/4 of the multiply-adds, {k:,} steps',
                             f'{WRN} --prune {kind} --macs_target 0.25 {iterations(k)}')
       for kind, label in (('magnitude', 'pruned by magnitude'), ('afs', 'AFS'))
       for k in (PRUNED_STEPS // 2, PRUNED_STEPS, 2 * PRUNED_STEPS)},
    **choices('afs_density', f'AFS to 1/4, {PRUNED_STEPS:,} steps, density', f'{WRN} --prune afs '
              f'--macs_target 0.25 {iterations(PRUNED_STEPS)} --density', (.9, .8)),
}
# on a CPU: 300 steps of a published ResNet-20, from CIFAR-10 to CIFAR-100; the settings were chosen
# in the table transfer-resnet20-choices
RESNET20 = '--source cifar10_resnet20'
SMALL_LR = .1
SMALL = f'--dataset CIFAR100 --lr {SMALL_LR:g} {iterations(300, 3)}'
SMALL_HALF = iterations(150, 3)
SMALL_ALPHA = {'l2_sp': .001, 'feature_map': .064, 'delta': .0064, 'afd': .001, 'ast': .001,
               'act': .00015, 'at': 100., 'kd': .5}
SMALL_CHOICES = {
    **choices('l2', 'L2, learning rate', f'{RESNET20} --lr', (.3, .1, .03, .01)),
    'l2_600': choice('L2, 600 steps', f'{RESNET20} {iterations(600, 3)}'),
    **alphas({'l2_sp': (.1, .01, .001), 'feature_map': (.64, .064, .0064),
              'delta': (.64, .064, .0064), 'afd': (.01, .001, .0001), 'ast': (.01, .001, .0001),
              'at': (100, 1000), 'kd': (.5, .9)}, RESNET20, 'l2_0.1', SMALL_HALF),
    **alphas({'act': (.015, .0015, .00015)}, f'--source @ast_{SMALL_ALPHA["ast"]:g}', '',
             SMALL_HALF, SMALL_LR)}
# on a CPU: 300 steps of WRN-10-2, from shapes to shapes with more noise and less contrast
SHAPES = '--source @demo/teacher'
SHAPES_ALPHA = {**ALPHA, 'at': 250.}        # as in the demo, for a quarter of the positions

TABLES = {
    'transfer': table(
        'From CIFAR-100 to 10, 50 and 500 images per class of CIFAR-10',
        script='finetune.py', epochs=12, against='vs. L2',
        common=f'--dataset CIFAR10 --lr {LR:g} {iterations(STEPS)}',
        rows=joined(of_images(net, n) for n in PER_CLASS for net in ('resnet', 'wrn'))),
    'transfer-pruned': table(
        'From CIFAR-100 to CIFAR-10, with pruning: WRN-40-2',
        script='finetune.py', epochs=12, against='vs. L2 or magnitude', pruned=True,
        common=f'--dataset CIFAR10 {WRN} --lr {LR:g} {iterations(PRUNED_STEPS)} '
               '--epoch_step [0.84]',
        rows=joined(part_of_table(
            f'wrn_{n}', f'{n} per class', f'--per_class {n}',
            pruning_rows('--prune afs', f'--method afd --alpha {ALPHA["afd"]:g}', 3))
            for n in PER_CLASS)),
    'transfer-choices': table(
        'From CIFAR-100 to CIFAR-10: settings, chosen on 5,000 held-out images; WRN-40-2 and 50 '
        'images per class, unless stated otherwise',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=12,
        common=f'--dataset CIFAR10 {holding_out(50)} --lr {LR:g} {iterations(STEPS)}',
        rows=CHOICES),
    'transfer-resnet20': table(
        'From CIFAR-10 to ten images per class of CIFAR-100: a published ResNet-20, 300 steps',
        script='finetune.py', epochs=3, against='vs. L2', common=f'{SMALL} --per_class 10',
        rows={'scratch': row('from scratch', options=f'--arch cifar_resnet-20-1 {AS_CIFAR}',
                             seeds=3),
              **methods(RESNET20, 'l2', SMALL_HALF, SMALL_ALPHA, SMALL_LR)}),
    'transfer-resnet20-choices': table(
        'From CIFAR-10 to CIFAR-100: settings, chosen on 2,000 held-out images; ResNet-20',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=3,
        common=f'{SMALL} --per_class 30 --validate 2000', rows=SMALL_CHOICES),
    'transfer-shapes': table(
        'From shapes to ten noisier shapes per class: WRN-10-2',
        script='finetune.py', epochs=6, against='vs. L2 or magnitude', pruned=True,
        common=f'--dataset shapes --domain shifted --shift 0.3 --per_class 10 --batch_size 32 --lr '
               f'{LR:g} {iterations(300, 6)}',
        rows={'scratch': row('from scratch', options=f'--arch wrn-10-2 --lr 0.05 {AS_CIFAR}',
                             seeds=3),
              **methods(SHAPES, 'l2', iterations(150, 6), SHAPES_ALPHA),
              **{k: dict(r, options=f'{SHAPES} {r["options"]}') for k, r in pruning_rows(
                  '--prune afs', f'--method afd --alpha {ALPHA["afd"]:g}', 3).items()}}),
}
