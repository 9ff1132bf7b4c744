"""Fine-tuning in the small: ten images of each class of amazon, a domain of Office-31."""
from papers.office31 import GIVEN
from papers.rows import choice, row

AMAZON10 = '--dataset office31 --dataroot office31 --domain amazon --per_class 10'
# chosen in the table amazon10-choices
AMAZON10_LR = .001
AMAZON10_ALPHA = {'l2_sp': .1, 'delta': .064, 'afd': .01, 'ast': .009, 'act': .004}
# stage two has a tenth of the rate of stage one, as published
AMAZON10_ACT = f'--method act --keep_head --lr {AMAZON10_LR / 10:g}'

TABLES = {
    'amazon10-choices': dict(
        title='Ten images of each class of amazon: settings, chosen on 100 held-out images of 310',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=3,
        medians=False, common=f'{AMAZON10} {GIVEN} --epoch_steps 100 --validate 100',
        rows={
            **{f'l2_{lr:g}': choice(f'L2, learning rate {lr:g}', f'--lr {lr:g}')
               for lr in (.01, .003, .001, .0003)},
            **{f'l2_sp_{a:g}': choice(f'L2-SP, α = {a:g}', f'--lr {AMAZON10_LR:g} --method l2_sp '
                                      f'--alpha {a:g}')
               for a in (1, .1, .01, .001)},
            **{f'delta_{a:g}': choice(f'DELTA, α = {a:g}', f'--lr {AMAZON10_LR:g} --method delta '
                                      f'--alpha {a:g} --channel_weights compute')
               for a in (.64, .064, .0064, .00064)},
            **{f'afd_{a:g}': choice(f'AFD, α = {a:g}', f'--lr {AMAZON10_LR:g} --method afd '
                                    f'--alpha {a:g}')
               for a in (.1, .01, .001)},
            **{f'ast_{a:g}': choice(f'AFA, stage one, α = {a:g}', f'--lr {AMAZON10_LR:g} --method '
                                    f'ast --alpha {a:g}')
               for a in (.09, .009, .0009)},
            **{f'act_{a:g}': choice(f'AFA, stage two, α = {a:g}', f'{AMAZON10_ACT} --source '
                                    f'@ast_{AMAZON10_ALPHA["ast"]:g} --alpha {a:g}')
               for a in (.04, .004, .0004)},
        }),
    'amazon10': dict(
        title='Ten images of each class of amazon: a given MobileNetV2, 300 steps of 32 at 96x96',
        script='finetune.py', epochs=3, medians=False, against='vs. L2',
        common=f'{AMAZON10} {GIVEN} --epoch_steps 100 --lr {AMAZON10_LR:g}',
        rows={
            'l2': row('L2', seeds=3),
            'l2_sp': row(f'L2-SP, α = {AMAZON10_ALPHA["l2_sp"]:g}', plain='l2', seeds=3,
                         options=f'--method l2_sp --alpha {AMAZON10_ALPHA["l2_sp"]:g}'),
            'delta': row(f'DELTA, α = {AMAZON10_ALPHA["delta"]:g}', plain='l2', seeds=3,
                         options='--method delta --channel_weights compute --alpha '
                         f'{AMAZON10_ALPHA["delta"]:g}'),
            'afd': row('AFD', plain='l2', seeds=3,
                       options=f'--method afd --alpha {AMAZON10_ALPHA["afd"]:g}'),
            'ast': row('AFA, stage one', plain='l2', seeds=3,
                       options=f'--method ast --alpha {AMAZON10_ALPHA["ast"]:g}'),
            'act': row('AFA, stage two, after 300 steps of stage one', plain='l2', seeds=3,
                       options=f'{AMAZON10_ACT} --source @ast --alpha '
                       f'{AMAZON10_ALPHA["act"]:g}'),
        }),
}
