"""Pruning by AFDS and what it is compared with: its paper's data sets, and few images of amazon."""
from papers.amazon10 import AMAZON10
from papers.office31 import GIVEN
from papers.rows import choice, row

# chosen in the table amazon10-pruned-choices
PRUNED_LR = .001
PRUNED_ALPHA = .001
# what is left of the multiply-adds, and how: AFDS is AFD and AFS
REDUCTIONS = {'2x': .5, '4x': .25, '10x': .1}


def amazon10_pruned(steps):
    """The options of pruning a given net in six epochs."""
    given = GIVEN.replace('--iterations 300', f'--iterations {steps}')
    return f"{AMAZON10} {given} --epoch_steps {steps // 6} --epoch_step '[0.84]'"


def pruned(afs, afd, seeds):
    """The rows {name: row} of pruning by four methods, `seeds` of each; `afs` and `afd` are the
    options of those."""
    methods = {'magnitude': ('magnitude', '--prune magnitude'), 'random': ('random', '--prune '
               'random'), 'afs': ('AFS', afs), 'afds': ('AFDS', f'{afs} {afd}')}
    whole = {'l2': row('L2, 1x', seeds=seeds),
             'afd': row('AFD, 1x', options=afd, plain='l2', seeds=seeds)}
    gates = {f'{k}_1x': row(f'{methods[k][0]}, 1x', options=methods[k][1], plain='l2',
                            seeds=seeds) for k in ('afs', 'afds')}
    return {**whole, **gates, **{
        f'{k}_{x}': row(f'{label}, {x}', options=f'{options} --macs_target {part}',
                        plain='' if k == 'magnitude' else f'magnitude_{x}', seeds=seeds)
        for x, part in REDUCTIONS.items() for k, (label, options) in methods.items()}}


def amazon10_table(title, steps, seeds):
    """A table of pruning a given net in so many steps."""
    return dict(title=title, script='finetune.py', epochs=6, medians=False, pruned=True,
                against='vs. L2 or magnitude',
                common=f'{amazon10_pruned(steps)} --lr {PRUNED_LR:g}',
                rows=pruned('--prune afs', f'--method afd --alpha {PRUNED_ALPHA:g}', seeds))


# a net that has learnt shapes goes on to learn them
SHAPES = "--dataset shapes --size 16 --batch_size 32 --dtype float"
LESS = ("--source @source --keep_head --lr 0.01 --epochs 9 --epoch_steps 40 --epoch_step '[0.84]' "
        "--macs_target 0.35 --prune")

TABLES = {
    'shapes-pruned': dict(
        title='Pruning a CIFAR ResNet-14 to 35 % of its multiply-adds on shapes, drawn by the '
              'program',
        script='finetune.py', epochs=24, medians=False, pruned=True, against='vs. magnitude',
        common=SHAPES,
        rows={
            'source': row('the whole net', seeds=2, options='--arch cifar_resnet-14-1 --lr 0.05 '
                          "--epochs 24 --epoch_step '[0.5,0.8]'"),
            'magnitude': row('magnitude', seeds=2, options=f'{LESS} magnitude'),
            **{name: row(label, seeds=2, plain='magnitude', options=f'{LESS} {flags}')
               for name, label, flags in (
                   ('random', 'random', 'random'), ('afs', 'AFS', 'afs'),
                   ('afs_density', 'AFS, density 0.5', 'afs --density 0.5'),
                   ('afs_gradual', 'AFS, nine phases', 'afs --phases 9'),
                   ('afs_gradual_density', 'AFS, nine phases, density 0.5',
                    'afs --phases 9 --density 0.5'))},
        }),
    'afds': dict(           # the paper's numbers were not at hand
        title='AFDS: ResNet-101 with fewer multiply-adds, on the data sets of the paper',
        script='finetune.py', epochs=18, medians=False, against='vs. L2 or magnitude',
        pruned=True, common="--source resnet101 --epoch_steps 500 --epoch_step '[0.84]'",
        rows={f'{name}_{k}': dict(r, label=f'{label}: {r["label"]}', plain=r['plain'] and
                                  f'{name}_{r["plain"]}', options=f'--dataset {name} --dataroot '
                                  f'~/{root} {r["options"]}')
              for name, label, root in (
                  ('dogs', 'Stanford Dogs', 'dogs'), ('cub', 'CUB-200-2011', 'cub'),
                  ('mit67', 'MIT Indoor 67', 'mit67'),
                  ('caltech256-30', 'Caltech-256-30', 'caltech256'),
                  ('caltech256-60', 'Caltech-256-60', 'caltech256'),
                  ('food101', 'Food-101', 'food101'))
              for k, r in pruned('--prune afs --density 0.9', '--method afd',
                                 3).items()}),
    'amazon10-pruned-choices': dict(
        title='Pruning on ten images of each class of amazon: settings, chosen on 100 held-out '
              'images of 310, at half of the multiply-adds',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=6,
        medians=False, common=amazon10_pruned(600) + ' --macs_target 0.5 --validate 100',
        rows={
            **{f'magnitude_{lr:g}': choice(f'magnitude, learning rate {lr:g}',
                                           f'--prune magnitude --lr {lr:g}')
               for lr in (.003, .001)},
            **{f'afs_{d:g}_{v:g}': choice(f'AFS, density {d:g}, δ_s = {v:g}', f'--prune afs '
                                          f'--density {d:g} --delta_s {v:g} --lr {PRUNED_LR:g}')
               for d, v in ((1, .5), (1, 0), (.8, 0))},
            **{f'afds_{a:g}': choice(f'AFDS, α = {a:g}', f'--prune afs --method afd --alpha {a:g} '
                                     f'--lr {PRUNED_LR:g}')
               for a in (.01, .001)},
        }),
    'amazon10-pruned': amazon10_table(
        'Pruning on ten images of each class of amazon: a given MobileNetV2, 600 steps, pruned '
        'after 200 and 400', 600, 3),
    'amazon10-pruned-long': amazon10_table(
        'Pruning on ten images of each class of amazon: a given MobileNetV2, 2,400 steps, pruned '
        'after 800 and 1,600, with the settings chosen for 600 steps', 2400, 1),
}
