"""Small fine-tuning experiments: ten images per class of amazon, a domain of Office-31."""
from papers.office31 import PRETRAINED
from papers.rows import choices, joined, row, table

AMAZON10 = f'--dataset office31 --dataroot office31 --domain amazon --per_class 10 {PRETRAINED}'
# chosen in the table amazon10-choices
LR = .001
ALPHA = {'l2_sp': .1, 'delta': .064, 'afd': .01, 'ast': .009, 'act': .004}
# each method's label, options and grid of α
METHODS = {
    'l2_sp': ('L2-SP', '', (1, .1, .01, .001)),
    'delta': ('DELTA', '--channel_weights compute', (.64, .064, .0064, .00064)),
    'afd': ('AFD', '', (.1, .01, .001)),
    'ast': ('AFA, stage one', '', (.09, .009, .0009)),
    # a tenth of the learning rate of stage one, as published
    'act': ('AFA, stage two', f'--keep_head --lr {LR / 10:g} --source @ast', (.04, .004, .0004)),
}
CHOSEN_AST = f'@ast_{ALPHA["ast"]:g}'

TABLES = {
    'amazon10-choices': table(
        'Ten images per class of amazon: settings, chosen on 100 held-out images of 310',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=3,
        common=f'{AMAZON10} --lr {LR:g} --steps_per_epoch 100 --validate 100',
        rows={
            **choices('l2', 'L2, learning rate', '--lr', (.01, .003, .001, .0003)),
            **joined(choices(method, f'{label}, α =', f'--method {method} '
                             f'{options.replace("@ast", CHOSEN_AST)} --alpha', alphas)
                     for method, (label, options, alphas) in METHODS.items()),
        }),
    'amazon10': table(
        'Ten images per class of amazon: a pretrained MobileNetV2, 300 steps of 32 images at 96x96',
        script='finetune.py', epochs=3, against='vs. L2',
        common=f'{AMAZON10} --steps_per_epoch 100 --lr {LR:g}',
        rows={'l2': row('L2', seeds=3),
              **{k: row(label, options=f'--method {k} {options} --alpha {ALPHA[k]:g}', plain='l2',
                        seeds=3) for k, (label, options, _) in METHODS.items()}}),
}
