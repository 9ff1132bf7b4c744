"""Fine-tuning without ImageNet: from CIFAR-100 to few images of each class of CIFAR-10.

No paper has these tables. They compare the methods of L2-SP, DELTA, AFD, AFDS and AFA, whose own
tables need ImageNet's weights and large images, where everybody can rerun them. Each seed has a
source of its own, a net of the table cifar100, and tests are on all 10,000 images. transfer-shapes
is the same on images that the program draws, small enough for a CPU.
"""
from papers.pruning import pruned
from papers.rows import choice, part_of_table, row

# To be chosen in transfer-choices, which has no runs yet: the published values until then.
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


def steps_of(steps, epochs=12):
    """The options of so many steps in so many epochs."""
    return f'--iterations {steps} --epoch_steps {steps // epochs}'


HALF = steps_of(STEPS // 2)


def by(method, alpha, source, teacher='', half=HALF):
    """The options of a method. The stages of AFA have half of the steps each; the second one has a
    tenth of the learning rate, as published."""
    more = {'delta': '--channel_weights compute', 'ast': half,
            'act': f'--keep_head --lr {LR / 10:g} {half}', 'kd': f'--teacher @{teacher}',
            'at': f'--teacher @{teacher} --at_groups [0,1,2]'}
    return f'{source} --method {method} --alpha {alpha:g} {more.get(method, "")}'


def methods(source, teacher, half=HALF, alphas=ALPHA):
    """The rows of one net on one set of images, {name: row}; those of AT and KD, if there is a row
    `teacher` for them to learn from."""
    rows = {'l2': row('L2', options=source, seeds=3)}
    for k, label in LABELS.items():
        if teacher or k not in ('at', 'kd'):
            start = '--source @ast' if k == 'act' else source
            rows[k] = row(label, options=by(k, alphas[k], start, teacher, half),
                          plain='' if k == 'ast' else 'l2', seeds=3)
    return rows


def of_images(net, n):
    """The rows of a net of SOURCES, fine-tuned on n images of each class. A WRN learns by AT and KD
    from the better net, fine-tuned on the same images."""
    label, source = SOURCES[net]
    teacher = f'resnet_{n}_l2' if net == 'wrn' else ''
    rows = methods(source, teacher)
    if net == 'wrn':
        scratch = row('from scratch', options=f'{SCRATCH} --lr {SCRATCH_LR:g} {AS_CIFAR}', seeds=3)
        rows = {'scratch': scratch, **rows}
    return part_of_table(f'{net}_{n}', f'{label}, {n} a class', f'--per_class {n}', rows)


def holding_out(n):
    """Options that train on n images of each class, on average, and hold 5,000 others out."""
    return f'--per_class {n + 500} --validate 5000'


def alphas_of(method, values, label, source=WRN, teacher=''):
    return {f'{method}_{v:g}': choice(f'{label}, α = {v:g}', by(method, v, source, teacher))
            for v in values}


CHOICES = {
    **{f'l2_{v:g}': choice(f'L2, learning rate {v:g}', f'{WRN} --lr {v:g}')
       for v in (.1, .03, .01, .003, .001)},
    **{f'scratch_{v:g}': choice(f'from scratch, learning rate {v:g}', f'{SCRATCH} {AS_CIFAR} --lr '
                                f'{v:g}') for v in (.1, .03, .01)},
    **{f'l2_{n}_{k}': choice(f'L2, {n} a class, {k:,} steps',
                             f'{WRN} {holding_out(n)} {steps_of(k)}')
       for n in PER_CLASS for k in (STEPS // 2, STEPS, 2 * STEPS)},
    'resnet': choice('L2 of ResNet-32x4, the teacher', SOURCES['resnet'][1]),
    **{name: r for method, values in {
        'l2_sp': (1, .1, .01, .001), 'feature_map': (6.4, .64, .064, .0064),
        'delta': (6.4, .64, .064, .0064), 'afd': (.1, .01, .001, .0001),
        'ast': (1, .1, .01, .001), 'at': (100, 1000, 10000), 'kd': (.5, .9)}.items()
       for name, r in alphas_of(method, values, LABELS[method], teacher='resnet').items()},
    **alphas_of('act', (1.5, .15, .015, .0015), LABELS['act'],
           f'--source @ast_{ALPHA["ast"]:g}'),
    **{f'{kind}_{k}': choice(f'{label} to 1/4 of the multiply-adds, {k:,} steps',
                             f'{WRN} --prune {kind} --macs_target 0.25 {steps_of(k)}')
       for kind, label in (('magnitude', 'pruned by magnitude'), ('afs', 'AFS'))
       for k in (PRUNED_STEPS // 2, PRUNED_STEPS, 2 * PRUNED_STEPS)},
    **{f'afs_density_{v:g}': choice(f'AFS to 1/4, {PRUNED_STEPS:,} steps, density {v:g}',
                                    f'{WRN} --prune afs --macs_target 0.25 --density {v:g} '
                                    f'{steps_of(PRUNED_STEPS)}') for v in (.9, .8)},
}
# on a CPU: 300 steps of WRN-10-2, from shapes to noisy ones of less contrast
SHAPES = '--source @demo/teacher'
SHAPES_ALPHA = {**ALPHA, 'at': 250.}        # as in the demo, for maps of a quarter of the positions

TABLES = {
    'transfer': dict(
        title='From CIFAR-100 to 10, 50 and 500 images of each class of CIFAR-10',
        script='finetune.py', epochs=12, medians=False, against='vs. L2',
        common=f'--dataset CIFAR10 --lr {LR:g} {steps_of(STEPS)}',
        rows={name: r for n in PER_CLASS for net in ('resnet', 'wrn')
              for name, r in of_images(net, n).items()}),
    'transfer-pruned': dict(
        title='The same, with channels pruned: WRN-40-2',
        script='finetune.py', epochs=12, medians=False, against='vs. L2 or magnitude', pruned=True,
        common=f"--dataset CIFAR10 {WRN} --lr {LR:g} {steps_of(PRUNED_STEPS)} --epoch_step [0.84]",
        rows={name: r for n in PER_CLASS for name, r in part_of_table(
            f'wrn_{n}', f'{n} a class', f'--per_class {n}',
            pruned('--prune afs', f'--method afd --alpha {ALPHA["afd"]:g}', 3)).items()}),
    'transfer-choices': dict(
        title='From CIFAR-100 to CIFAR-10: settings, chosen on 5,000 held-out images; WRN-40-2, 50 '
              'images of each class unless said',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=12,
        medians=False, common=f'--dataset CIFAR10 {holding_out(50)} --lr {LR:g} {steps_of(STEPS)}',
        rows=CHOICES),
    'transfer-shapes': dict(
        title='The same in the small: from shapes to ten noisy ones of each class, WRN-10-2',
        script='finetune.py', epochs=6, medians=False, against='vs. L2 or magnitude', pruned=True,
        common=f'--dataset shapes --domain shifted --shift 0.3 --per_class 10 --batch_size 32 --lr '
               f'{LR:g} {steps_of(300, 6)}',
        rows={'scratch': row('from scratch', options=f'--arch wrn-10-2 --lr 0.05 {AS_CIFAR}',
                             seeds=3),
              **methods(SHAPES, 'l2', steps_of(150, 6), SHAPES_ALPHA),
              **{k: dict(r, options=f'{SHAPES} {r["options"]}') for k, r in pruned(
                  '--prune afs', f'--method afd --alpha {ALPHA["afd"]:g}', 3).items()}}),
}
