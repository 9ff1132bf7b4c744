"""The tables of DDC (arXiv:1412.3474) and DAN (arXiv:1502.02791) on Office-31, and smaller ones.

There are two families of published numbers for ResNet-50: those of MADA's paper (AAAI 2018), which
fine-tuned the whole net, and those of JAN's (arXiv:1605.06636); both have the same source-only row.
"""
from papers.rows import choices, error_of, row, table

# pairs of domains, in the order of the accuracies below
PAIRS = [('amazon', 'webcam'), ('dslr', 'webcam'), ('webcam', 'dslr'), ('amazon', 'dslr'),
         ('dslr', 'amazon'), ('webcam', 'amazon')]
ALEXNET = {
    'source': '61.6±0.5 95.4±0.3 99.0±0.2 63.8±0.5 51.1±0.6 49.8±0.4',
    'ddc': '61.8±0.4 95.0±0.5 98.5±0.4 64.4±0.3 52.1±0.8 52.2±0.4',
    'dan': '68.5±0.4 96.0±0.3 99.0±0.2 67.0±0.4 54.0±0.4 53.1±0.3',
}
MADA = {
    'source': '68.4±0.5 96.7±0.5 99.3±0.1 68.9±0.2 62.5±0.3 60.7±0.3',
    'ddc': '75.8±0.2 95.0±0.2 98.2±0.1 77.5±0.3 67.4±0.4 64.0±0.5',
    'dan': '83.8±0.4 96.8±0.2 99.5±0.1 78.4±0.2 66.7±0.3 62.7±0.2',
}
# by others, at the best epoch on the test images except for JAN's and transferlearning's last epoch
RESNET50 = {
    'source': {'TLlib, best epoch': '75.8 95.5 99.0 79.3 63.6 63.8',
               'DeepDA, best epoch': '80.63 97.61 100.0 82.73 66.17 65.07'},
    'ddc': {'easezyc, best epoch': '78.3±0.4 97.1±0.1 100.0 81.7±0.9 65.2±0.6 65.1±0.4'},
    'dan': {"JAN's paper": '80.5 97.1 99.6 78.6 63.6 62.8',
            'transferlearning, last epoch': '81.6±0.7 97.2±0.1 99.5±0.1 80.0±0.7 66.2±0.6 65.6±0.4',
            'transferlearning, best epoch': '82.6±0.7 97.7±0.1 100.0 83.1±0.9 66.8±0.3 66.6±0.4',
            'DeepDA, best epoch': '85.79 97.48 100.0 84.34 68.16 66.56'},
    'dan_tllib': {'TLlib, best epoch': '84.2 98.4 100.0 87.3 66.9 65.2'},
}
# DAN's Caffe recipe, except for the weight decay: the learning rate decays in every step, and the
# head's is ten times that of the other layers
OFFICE_RECIPE = ('--dataset office31 --dataroot office31 --schedule inv --lr_gamma 1e-3 '
                 '--lr_power 0.75 --head_lr_mult 10')
PRETRAINED = ('--source mobilenet_v2_imagenet.pth --pixels tensorflow --size 96 --batch_size 32 '
              '--iterations 300 --nthread 1')
OFFICE_LR = .0003         # chosen in the table office31-choices


def domains(methods, papers=None, source='', others=None):
    """Make the rows of Office-31: for each pair of domains, each of `methods`, {name: (label,
    options)}. `papers`: {name: accuracies}, from `source`; `others`: {name: {who: accuracies}}."""
    def error(accuracies, pair):
        return error_of(accuracies.split()[PAIRS.index(pair)])

    papers, others, rows = papers or {}, others or {}, {}
    for a, b in sorted(PAIRS):
        for name, (label, options) in methods.items():
            theirs = (f'{error(v, (a, b))} ({who})' for who, v in others.get(name, {}).items())
            paper = error(papers[name], (a, b)) if name in papers else ''
            plain = '' if label.endswith('source-only') else f'{a}_{b}_source'
            rows[f'{a}_{b}_{name}'] = row(f'{a} → {b}, {label}', paper, source, f'--domain {a} '
                                          f'--target {b} {options}', plain, 1, '; '.join(theirs))
    return rows


TABLES = {
    'office31-alexnet': table(
        "Office-31 with AlexNet: torchvision's, and Caffe's, whose numbers the papers give",
        script='finetune.py', epochs=20, against='vs. source-only',
        common=f'{OFFICE_RECIPE} --lr 0.001 --batch_size 64 --iterations 20000 '
               '--steps_per_epoch 1000',
        rows=domains({
            'source': ("Caffe's AlexNet, source-only",
                       '--source bvlc_reference_caffenet.pth --weight_decay 0 --beta 0'),
            'torchvision': ("torchvision's AlexNet, source-only",
                            '--source alexnet --weight_decay 0 --beta 0'),
            'ddc': ("Caffe's AlexNet, DDC", '--source bvlc_reference_caffenet.pth --method ddc'),
            'dan': ("Caffe's AlexNet, DAN", '--source bvlc_reference_caffenet.pth --method dan'),
        }, ALEXNET, 'arXiv:1502.02791')),
    'office31-resnet50': table(
        "Office-31 with ResNet-50, beside the numbers of MADA's paper",
        script='finetune.py', epochs=20, against='vs. source-only',
        common='--dataset office31 --dataroot office31 --source resnet50 --schedule inv '
               '--lr_gamma 3e-4 --lr_power 0.75 --lr 3e-4 --head_lr_mult 10 --bottleneck 256 '
               '--batch_size 32 --iterations 10000 --steps_per_epoch 500 --weight_decay 5e-4 '
               '--beta 5e-4 --crop area',
        rows=domains({
            'source': ('source-only', ''), 'ddc': ('DDC', '--method ddc'),
            'dan': ('DAN', '--method dan'),
            'dan_tllib': ("Transfer-Learning-Library's DAN", '--method dan --mmd linear '
                          '--mmd_layers bottleneck --dropout 0.5 --nesterov'),
        }, MADA, "MADA's paper, as easezyc/deep-transfer-learning quotes it", RESNET50)),
    'office31-choices': table(
        "Office-31: the learning rate, chosen on 500 held-out images of amazon's 2,817",
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=1,
        common=f'{OFFICE_RECIPE} {PRETRAINED} --steps_per_epoch 300 --bottleneck 256 '
               '--domain amazon --target webcam --validate 500',
        rows=choices('lr', 'amazon, source-only, learning rate', '--lr',
                     (.03, .01, .003, .001, .0003, .0001))),
    'office31-mobilenet': table(
        'Office-31: a pretrained MobileNetV2, 300 steps of 32 images at 96x96',
        script='finetune.py', epochs=3, against='vs. source-only',
        common=f'{OFFICE_RECIPE} {PRETRAINED} --lr {OFFICE_LR:g} --steps_per_epoch 100 '
               '--bottleneck 256 --validate 100',
        rows=domains({'source': ('source-only', ''), 'dan': ('DAN', '--method dan')})),
    'office31-parts': table(
        'amazon → webcam, source-only: what each part of the recipe contributes',
        script='finetune.py', epochs=3, against='vs. the recipe',
        common='--dataset office31 --dataroot office31 --domain amazon --target webcam '
               f'--schedule inv {PRETRAINED} --lr {OFFICE_LR:g} --steps_per_epoch 100 '
               '--validate 100',
        rows={
            'recipe': row('the recipe: ten times the learning rate for the head, inverse decay, '
                          'crops at random positions', options='--head_lr_mult 10', seeds=1),
            **{k: row(label, options=options, plain='recipe', seeds=1) for k, label, options in (
                ('area', 'crops of random area', '--head_lr_mult 10 --crop area'),
                ('centre', 'no augmentation', '--head_lr_mult 10 --crop centre'),
                ('head', 'the same learning rate for the head', ''),
                ('constant', 'no learning-rate decay', '--head_lr_mult 10 --lr_gamma 0'))},
        }),
}
