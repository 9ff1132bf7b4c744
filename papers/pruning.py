"""Pruning with AFDS and what it is compared with: its paper's data sets, and few images of amazon.
"""
from papers import fine_tuning
from papers.amazon10 import AMAZON10
from papers.rows import choices, joined, part_of_table, row, table

# chosen in the table amazon10-pruned-choices
PRUNED_LR = .001
PRUNED_ALPHA = .001
AMAZON10_PRUNED = f"{AMAZON10} --iterations 600 --steps_per_epoch 100 --epoch_step '[0.84]'"
# the part of the multiply-adds that is left
REDUCTIONS = {'2x': .5, '4x': .25, '10x': .1}


def pruning_rows(afs, afd, seeds):
    """Make the rows {name: row} of a net pruned with four methods, and of the unpruned net, with
    `seeds` seeds each; `afs` and `afd` are the options of those two methods, and AFDS is both."""
    methods = {'magnitude': ('magnitude', '--prune magnitude'),
               'random': ('random', '--prune random'),
               'afs': ('AFS', afs), 'afds': ('AFDS', f'{afs} {afd}')}
    unpruned = {'afd': ('AFD', afd), 'afs_1x': methods['afs'], 'afds_1x': methods['afds']}
    return {
        'l2': row('L2, 1x', seeds=seeds),
        **{k: row(f'{label}, 1x', options=options, plain='l2', seeds=seeds)
           for k, (label, options) in unpruned.items()},
        **{f'{k}_{x}': row(f'{label}, {x}', options=f'{options} --macs_target {part}',
                           plain='' if k == 'magnitude' else f'magnitude_{x}', seeds=seeds)
           for x, part in REDUCTIONS.items() for k, (label, options) in methods.items()}}


# a net trained on shapes is trained on while it is pruned
SHAPES = "--dataset shapes --size 16 --batch_size 32 --dtype float"
LESS = ("--source @source --keep_head --lr 0.01 --epochs 9 --steps_per_epoch 40 "
        "--epoch_step '[0.84]' --macs_target 0.35 --prune")

TABLES = {
    'shapes-pruned': table(
        'Pruning a CIFAR ResNet-14 to 35 % of its multiply-adds on shapes, synthetic images',
        script='finetune.py', epochs=24, pruned=True, against='vs. magnitude', common=SHAPES,
        rows={
            'source': row('the unpruned net', seeds=2, options='--arch cifar_resnet-14-1 --lr 0.05 '
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
    'afds': table(          # the paper's numbers were not available
        'AFDS: ResNet-101 with fewer multiply-adds, on the data sets of the paper',
        script='finetune.py', epochs=18, against='vs. L2 or magnitude', pruned=True,
        common="--source resnet101 --steps_per_epoch 500 --epoch_step '[0.84]'",
        rows=joined(part_of_table(name, label, fine_tuning.on(name), pruning_rows(
            '--prune afs', '--method afd', 3))
                    for name, label in fine_tuning.DATA.items())),
    'amazon10-pruned-choices': table(
        'Pruning on ten images per class of amazon: settings, chosen on 100 held-out images of '
        '310, at half of the multiply-adds',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=6,
        common=f'{AMAZON10_PRUNED} --lr {PRUNED_LR:g} --macs_target 0.5 --validate 100',
        rows={**choices('magnitude', 'magnitude, learning rate', '--prune magnitude --lr',
                        (.003, .001)),
              **choices('afs_1', 'AFS, density 1, δ_s =', '--prune afs --density 1 --delta_s',
                        (.5, 0)),
              **choices('afs_0.8', 'AFS, density 0.8, δ_s =', '--prune afs --density 0.8 '
                        '--delta_s', (0,)),
              **choices('afds', 'AFDS, α =', '--prune afs --method afd --alpha', (.01, .001))}),
    'amazon10-pruned': table(
        'Pruning a pretrained MobileNetV2 on ten images per class of amazon: 600 steps, pruned '
        'after 200 and 400', script='finetune.py', epochs=6, pruned=True,
        against='vs. L2 or magnitude', common=f'{AMAZON10_PRUNED} --lr {PRUNED_LR:g}',
        rows=pruning_rows('--prune afs', f'--method afd --alpha {PRUNED_ALPHA:g}', 3)),
}
