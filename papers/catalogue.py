"""The tables of the papers as data: the command line of each cell, and the paper's number.

`python tables.py commands|run|show TABLE` works on them. Numbers are errors in %; one without a
source could not be checked and is printed so.
"""



# Where the papers' numbers were found, beside the papers themselves.
TEXT = "the paper's text"
ROCKET = 'arXiv:1708.04106, table 1'    # Rocket Launching, quoting the attention transfer paper
CODE = 'the README of szagoruyko/attention-transfer'
# What the attention transfer paper does not give: chosen in the table cifar10-choices.
F_ACTT_BETA = 10.
GRAD_AT_BETA = .1
MIN_L2_BETA = .1
SYMMETRY_BETA = .1
GRADIENTS_LR = .01      # of the nets without batch normalisation


def row(label, paper='', source='', options='', plain='', seeds=5):
    """A row: the paper's error in % and its source; the options of the script, in which @ROW stands
    for the run of that row with the same seed; the row of the plain student; the number of seeds.
    """
    return dict(label=label, paper=paper, source=source, options=options, plain=plain, seeds=seeds)


def transfers(student, suffix, options, plain, teacher, label, papers):
    """The rows AT, F-ActT, KD and AT+KD of a pair of table 1; `papers`: (error, source) of each."""
    given = f'{options} --teacher_id @{teacher}'
    methods = {'at': ('AT', '--beta 1e+3'),
               'f_actt': ('F-ActT', f'--method f_actt --beta {F_ACTT_BETA:g}'),
               'kd': ('KD', '--alpha 0.9'), 'at_kd': ('AT+KD', '--beta 1e+3 --alpha 0.9')}
    return {name + suffix: row(f'{student}, {method}{label}', *paper, f'{given} {flags}', plain)
            for (name, (method, flags)), paper in zip(methods.items(), papers, strict=True)}


def gradients(label, paper, options, student='--width 0.5', plain='nin_thin'):
    """A row of table 3."""
    return row(label, paper, paper and TEXT, f'{student} {options}', plain, seeds=3)


def choice(label, options, plain=''):
    return row(label, options=options, plain=plain, seeds=1)


NO_BN = f'--no_bn --lr {GRADIENTS_LR:g}'
BY_16_2 = '--teacher_id @cifar10/teacher --beta 1e+3'
TABLE_3 = '--model nin --no_pool_relu --randomcrop_pad 0 --weight_decay 0 --deterministic'
ONE_EPOCH = f'{TABLE_3} --epochs 1 --epoch_step []'
THREE_EPOCHS = '--epochs 3 --epoch_step [2,3] --validate 5000'
FIVE_EPOCHS = '--epochs 5 --epoch_step [2,3,4] --validate 30000'
GRADIENTS_GRID = f'{ONE_EPOCH} {NO_BN} --validate 30000'
IMAGENETTE = ('--imagenetpath imagenette --size 96 --batch_size 32 --nthread 2 '
              '--epoch_step [0.6,0.9]')
IMAGENETTE_LR = {34: .01, 18: .005}     # chosen in the table imagenette-choices
# ---- fine-tuning --------------------------------------------------------------------------------
AFA = 'the README of xiezheng-cs/AFA'
PADDLE = "the README of PaddlePaddle's DELTA"      # alpha 0.1, weight decay 1e-4, 100 epochs
L2SP = 'the README of holyseven/TransferLearningClassification'
DAN = "the DAN paper's numbers as jindongwang/transferlearning quotes them"
TLLIB = 'the README of thuml/Transfer-Learning-Library'
OFFICE31 = [(a, b) for a in ('amazon', 'dslr', 'webcam') for b in ('amazon', 'dslr', 'webcam')
            if a != b]
# DAN's recipe in Caffe, but for the weights' decay: by the step, ten times the rate for new layers
OFFICE_RECIPE = ('--dataset office31 --dataroot office31 --schedule inv --lr_gamma 1e-3 '
                 '--lr_power 0.75 --head_lr_mult 10')
GIVEN = ('--source mobilenet_v2_imagenet.pth --pixels tensorflow --size 96 --batch_size 32 '
         '--iterations 300 --nthread 1')
OFFICE_LR = .0003         # chosen in the table office31-choices
AMAZON10 = '--dataset office31 --dataroot office31 --domain amazon --per_class 10'
# chosen in the table amazon10-choices
AMAZON10_LR = .001
AMAZON10_ALPHA = {'l2_sp': .1, 'delta': .064, 'afd': .01, 'ast': .009, 'act': .004}
# chosen in the table amazon10-pruned-choices
PRUNED_LR = .001
PRUNED_ALPHA = .001
# what is left of the multiply-adds, and how: AFDS is AFD and AFS
REDUCTIONS = {'2x': .5, '4x': .25, '10x': .1}


def amazon10_pruned(steps):
    """Options of a given net that channels are removed from, in six epochs."""
    given = GIVEN.replace('--iterations 300', f'--iterations {steps}')
    return f"{AMAZON10} {given} --epoch_steps {steps // 6} --epoch_step '[0.84]'"


def pruned(afs, afd, seeds):
    """Rows {name: row} of removal by four methods: `afs`, `afd` are options of theirs; `seeds` of
    each reduction."""
    methods = {'magnitude': ('magnitude', '--prune magnitude'), 'random': ('random', '--prune '
               'random'), 'afs': ('AFS', afs), 'afds': ('AFDS', f'{afs} {afd}')}
    whole = {'l2': row('L2, 1x', seeds=seeds['1x']),
             'afd': row('AFD, 1x', options=afd, plain='l2', seeds=seeds['1x'])}
    gates = {f'{k}_1x': row(f'{methods[k][0]}, 1x', options=methods[k][1], plain='l2',
                            seeds=seeds['1x']) for k in ('afs', 'afds')}
    return {**whole, **gates, **{
        f'{k}_{x}': row(f'{label}, {x}', options=f'{options} --macs_target {part}',
                        plain='' if k == 'magnitude' else f'magnitude_{x}', seeds=seeds[x])
        for x, part in REDUCTIONS.items() for k, (label, options) in methods.items()}}


def amazon10_removal(title, steps, seeds):
    """A table of removal from a given net."""
    return dict(title=title, script='finetune.py', epochs=6, medians=False, pruned=True,
                against='vs. L2 or magnitude',
                common=f'{amazon10_pruned(steps)} --lr {PRUNED_LR:g}',
                rows=pruned('--prune afs', f'--method afd --alpha {PRUNED_ALPHA:g}',
                            dict.fromkeys(('1x', *REDUCTIONS), seeds)))


# stage two has a tenth of the rate of stage one, as published
AMAZON10_ACT = f'--method act --keep_head --lr {AMAZON10_LR / 10:g}'


def domains(methods, papers, seeds=1):
    """Rows of Office-31: for each pair of domains, each of `methods` ({name: (label, options)}).
    `papers`: {name: accuracies in the papers' order of pairs, and their source}."""
    order = ['amazon webcam', 'dslr webcam', 'webcam dslr', 'amazon dslr', 'dslr amazon',
             'webcam amazon']

    def paper(method, pair):
        accuracies, source = papers.get(method, ((), ''))
        if not accuracies:
            return '', ''
        return f'{100 - accuracies[order.index(pair)]:.1f}', source

    return {f'{a}_{b}_{method}': row(f'{a} → {b}, {label}', *paper(method, f'{a} {b}'),
                                     f'--domain {a} --target {b} {options}',
                                     '' if label.endswith('source-only') else f'{a}_{b}_source',
                                     seeds)
            for a, b in OFFICE31 for method, (label, options) in methods.items()}


# Their places among ImageNet's classes, in the order of the folders' names.
IMAGENETTE_CLASSES = '[0,217,482,491,497,566,569,571,574,701]'
# table -> title; epochs of the paper's schedule; whether the paper's numbers are medians of five
# runs (for table 1 that is unverified); options of all rows; rows by name, teachers first; and,
# where it is not cifar.py, the script; the heading of the differences to rows `plain`, if that is
# no plain student; what is tabulated, if not the test's errors. A row TABLE/ROW is that row of
# another table, under another label.
TABLES = {
    'demo': dict(
        title='shapes, drawn by the program: 5,000 training and 1,000 test images of 32x32',
        epochs=8, medians=False,
        common="--dataset shapes --batch_size 64 --epochs 8 --epoch_step '[0.6,0.8,0.9]'",
        rows={
            'teacher': row('WRN-16-2, the teacher', options='--depth 16 --width 2', seeds=1),
            'student': row('WRN-16-1 alone', seeds=1),
            'at': choice('WRN-16-1, AT', '--teacher_id @teacher --beta 1e+3', 'student'),
            'kd': choice('WRN-16-1, KD', '--teacher_id @teacher --alpha 0.9', 'student'),
            'at_kd': choice('WRN-16-1, AT+KD', '--teacher_id @teacher --beta 1e+3 --alpha 0.9',
                            'student'),
        }),
    'cifar10': dict(
        title='CIFAR-10, table 1 of the attention transfer paper',
        epochs=200, medians=True, common='',
        rows={
            'teacher': row('WRN-16-2, the teacher', '6.31', ROCKET, '--depth 16 --width 2'),
            'student': row('WRN-16-1 alone', '8.77', ROCKET),
            **transfers('WRN-16-1', '', '', 'student', 'teacher', '',
                        (('7.93', TEXT), ('8.51', ''), ('7.41', ''), ('', ''))),
            'at_kd': row('WRN-16-1, AT+KD, constant β', options='--teacher_id @teacher --beta 1e+3 '
                         '--alpha 0.9 --beta_decay constant', plain='student'),
            'at_kd_decay': row('WRN-16-1, AT+KD', '7.51', '',
                               '--teacher_id @teacher --beta 1e+3 --alpha 0.9', 'student'),
            'student_float': row('WRN-16-1 alone, in float instead of bfloat16', '8.77', ROCKET,
                                 '--dtype float', 'student', 1),
            'wrn_40_1': row('WRN-40-1, a teacher', '6.58', ROCKET, '--depth 40 --width 1'),
            **transfers('WRN-16-1', '_40_1', '', 'student', 'wrn_40_1', ' from WRN-40-1',
                        (('8.25', ROCKET), ('8.62', ''), ('8.39', ROCKET), ('8.01', ''))),
            'wrn_40_2': row('WRN-40-2, a teacher', '5.23', ROCKET, '--depth 40 --width 2'),
            **transfers('WRN-16-2', '_40_2', '--width 2', 'teacher', 'wrn_40_2', ' from WRN-40-2',
                        (('5.85', ROCKET), ('6.24', ''), ('6.08', ROCKET), ('5.71', ''))),
            'nin_wide': row('NIN-wide, a teacher', '7.28', '', '--model nin'),
            'nin_thin': row('NIN-thin alone', '9.38', '', '--model nin --width 0.5'),
            **transfers('NIN-thin', '_nin', '--model nin --width 0.5', 'nin_thin', 'nin_wide', '',
                        (('8.93', ''), ('9.05', ''), ('8.55', ''), ('8.33', ''))),
        }),
    'cifar10-maps': dict(
        title='CIFAR-10, table 2: attention maps, WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', ROCKET),
            'cifar10/student': row('no attention transfer', '8.77', TEXT),
            'sum': row('F_sum', '7.99', TEXT, f'{BY_16_2} --at_map sum', 'cifar10/student'),
            'cifar10/at': row('F²_sum', '7.93', TEXT, plain='cifar10/student'),
            'sum4': row('F⁴_sum', '8.09', TEXT, f'{BY_16_2} --at_map sum4', 'cifar10/student'),
            'max': row('F¹_max', '8.08', TEXT, f'{BY_16_2} --at_map max', 'cifar10/student'),
        }),
    'cifar10-groups': dict(     # the paper counts the groups from 1, --at_groups from 0
        title='CIFAR-10, attention transfer in one group of WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', ROCKET),
            'cifar10/student': row('no attention transfer', '8.77', TEXT),
            **{f'group{i + 1}': row(f'group {i + 1}', paper, TEXT, f'{BY_16_2} --at_groups [{i}]',
                                    'cifar10/student')
               for i, paper in enumerate(('8.11', '7.96', '7.97'))},
            'cifar10/at': row('all three', '7.93', TEXT, plain='cifar10/student'),
        }),
    'cifar10-choices': dict(
        title='CIFAR-10: what the paper leaves open, chosen on held-out training images',
        measure='held-out error, %', epochs=1, medians=False, common='',
        rows={
            **{f'lr_{v:g}': choice(f'NIN-thin without BN, learning rate {v:g}', f'{ONE_EPOCH} '
                                   f'--width 0.5 --no_bn --lr {v:g} --validate 5000')
               for v in (.1, .03, .01, .003)},
            'teacher': choice('WRN-16-2, the teacher', f'--width 2 {THREE_EPOCHS}'),
            'student': choice('WRN-16-1 alone', THREE_EPOCHS),
            **{f'f_actt_{v:g}': choice(f'WRN-16-1, F-ActT, β = {v:g}', '--teacher_id @teacher '
                                       f'--method f_actt --beta {v:g} {THREE_EPOCHS}', 'student')
               for v in (.1, 1, 10, 100)},
            'nin_wide': choice('NIN-wide without BN, the teacher', GRADIENTS_GRID),
            'nin_thin': choice('NIN-thin without BN alone', f'{GRADIENTS_GRID} --width 0.5'),
            **{f'{method}_{v:g}': choice(f'NIN-thin, {label}, β = {v:g}', f'{GRADIENTS_GRID} '
                                         f'--width 0.5 --method {method} --beta {v:g}{teacher}',
                                         'nin_thin')
               for method, label, teacher in (('min_l2', 'min-l2', ''),
                                              ('grad_at', 'gradient AT', ' --teacher_id @nin_wide'),
                                              ('symmetry', 'symmetry norm', ''))
               for v in (.1, 1, 10)},
            'teacher_5': choice('WRN-16-2, the teacher of AT+KD', f'--width 2 {FIVE_EPOCHS}'),
            **{f'at_kd_{v}': choice(f'WRN-16-1, AT+KD, β {v}', '--teacher_id @teacher_5 --alpha '
                                    f'0.9 --beta 1e+3 --beta_decay {v} {FIVE_EPOCHS}',
                                    '' if v == 'constant' else 'at_kd_constant')
               for v in ('constant', 'linear', 'cosine', 'step')},
        }),
    'cifar10-gradients': dict(  # single runs in the paper
        title='CIFAR-10, table 3: gradient attention, NIN-wide -> NIN-thin without BN, flips only',
        epochs=200, medians=False, common=TABLE_3,
        rows={
            'nin_wide': gradients('NIN-wide, teacher of gradient AT and KD', '', NO_BN, '', ''),
            'nin_wide_bn': gradients('NIN-wide with BN, teacher of activation AT', '', '', '', ''),
            'nin_thin': gradients('NIN-thin alone', '13.5', NO_BN, plain=''),
            'min_l2': gradients('min-l2', '12.5',
                                f'{NO_BN} --method min_l2 --beta {MIN_L2_BETA:g}'),
            'grad_at': gradients('gradient AT', '12.1', f'{NO_BN} --teacher_id @nin_wide --method '
                                 f'grad_at --beta {GRAD_AT_BETA:g}'),
            'kd': gradients('KD', '12.1', f'{NO_BN} --teacher_id @nin_wide --alpha 0.9'),
            'symmetry': gradients('symmetry norm', '11.8',
                                  f'{NO_BN} --method symmetry --beta {SYMMETRY_BETA:g}'),
            'at': gradients('activation AT', '11.2',
                            f'{NO_BN} --teacher_id @nin_wide_bn --beta 1e+3'),
        }),
    'imagenet': dict(           # the paper's teacher was a given one; resnet34 is torchvision's
        title='ImageNet, table 5 of the attention transfer paper',
        measure='top-1, top-5 error, %', top5=True, script='imagenet.py', epochs=100,
        medians=False, common='--imagenetpath ~/ILSVRC2012',
        rows={
            'teacher': row('ResNet-34', '26.1, 8.3', '', '--depth 34', seeds=1),
            'student': row('ResNet-18 alone', '30.4, 10.8', CODE, '--depth 18', seeds=1),
            'at': row('ResNet-18, AT from ResNet-34', '29.3, 10.0', CODE,
                      '--depth 18 --teacher_params resnet34 --beta 1e+3', 'student', 1),
            'kd': row('ResNet-18, KD from ResNet-34', '', '',
                      '--depth 18 --teacher_params resnet34 --alpha 0.9', 'student', 1),
            'at_kd': row('ResNet-18, AT+KD from ResNet-34', '', '', '--depth 18 --teacher_params '
                         'resnet34 --alpha 0.9 --beta 1e+3', 'student', 1),
        }),
    'imagenette-choices': dict(
        title='Ten classes of ImageNet: learning rates, chosen on 400 held-out images of 2,000',
        measure='held-out error, %', script='imagenet.py', epochs=6, medians=False,
        common=f'{IMAGENETTE} --epochs 6 --validate 400',
        rows={f'{depth}_{lr:g}': choice(f'ResNet-{depth}, learning rate {lr:g}',
                                        f'--depth {depth} --lr {lr:g}')
              for depth, rates in ((34, (.05, .02, .01, .005)), (18, (.05, .02, .01, .005, .002)))
              for lr in rates}),
    'imagenette': dict(
        title='Ten classes of ImageNet: 2,000 training and 500 test images of Imagenette, 96x96',
        measure='top-1 error, %', script='imagenet.py', epochs=12, medians=False,
        common=f'{IMAGENETTE} --epochs 12',
        rows={
            'teacher': row('ResNet-34, the teacher', options=f'--depth 34 --lr {IMAGENETTE_LR[34]}',
                           seeds=3),
            'student': row('ResNet-18 alone', options=f'--lr {IMAGENETTE_LR[18]}', seeds=3),
            'at': row('ResNet-18, AT', options=f'--lr {IMAGENETTE_LR[18]} --teacher_params '
                      '@teacher --beta 1e+3', plain='student', seeds=3),
        }),
    'finetuning': dict(     # the published hyper-parameters; errors of others' runs
        title='Fine-tuning of ResNet-101 with the published settings of DELTA and L2-SP',
        script='finetune.py', epochs=None, medians=False, against='vs. L2',
        common='--source resnet101 --schedule exp',
        rows={f'{name}_{method}': row(
            f'{label}, {method_label}', *papers.get(method, ('', '')),
            f'--dataset {name} --dataroot ~/{root} {flags} '
            + (f'--alpha {alpha}' if method == 'delta' and alpha else ''),
            '' if method == 'l2' else f'{name}_l2', 3)
              for name, label, root, alpha, papers in (
                  ('dogs', 'Stanford Dogs', 'dogs', 6.4,
                   {'l2': ('18 to 19', L2SP), 'l2_sp': ('11 to 12', L2SP), 'delta': ('11.3', AFA)}),
                  ('cub', 'CUB-200-2011', 'cub', 0,
                   {'l2': ('22.59', PADDLE), 'delta': ('19.95', PADDLE)}),
                  ('mit67', 'MIT Indoor 67', 'mit67', 0, {}),
                  ('caltech256-30', 'Caltech-256-30', 'caltech256', 0,
                   {'l2': ('20.14', PADDLE), 'delta': ('15.29', PADDLE)}),
                  ('caltech256-60', 'Caltech-256-60', 'caltech256', 0, {}),
                  ('food101', 'Food-101', 'food101', 0, {}))
              for method, method_label, flags in (
                  ('l2', 'L2', ''), ('l2_sp', 'L2-SP', '--method l2_sp'),
                  ('delta', 'DELTA', '--method delta --channel_weights compute'))}),
    'afa': dict(            # the six configuration files; the last epoch of stage one is handed on
        title='Stanford Dogs, AFA: spatial attention (AST), then channel attention (ACT)',
        script='finetune.py', epochs=24, medians=False, against='vs. stage one',
        common='--dataset dogs --dataroot ~/dogs --iterations 4500',
        rows={
            'resnet101_ast': row('ResNet-101, stage one, AST', seeds=3, options='--source '
                                 'resnet101 --method ast --alpha 0.1 --lr 0.01'),
            'resnet101_act': row('ResNet-101, stage two, ACT', '9.9', AFA, '--source '
                                 '@resnet101_ast --keep_head --method act --alpha 0.15 --lr 0.001',
                                 'resnet101_ast', 3),
            'mobilenet_ast': row('MobileNetV2, stage one, AST', seeds=3, options='--source '
                                 'mobilenet_v2 --method ast --alpha 0.09 --lr 0.01'),
            'mobilenet_act': row('MobileNetV2, stage two, ACT', '17.9', AFA, '--source '
                                 '@mobilenet_ast --keep_head --method act --alpha 0.04 --lr 0.001',
                                 'mobilenet_ast', 3),
            'resnet101_released': row('ResNet-101, the released file', '9.78', AFA,
                                      '--evaluate afa_resnet101.pth', seeds=1),
            'mobilenet_released': row('MobileNetV2, the released file', '17.83', AFA,
                                      '--evaluate afa_mobilenet_v2.pth', seeds=1),
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
                                 dict.fromkeys(('1x', *REDUCTIONS), 3)).items()}),
    'office31-alexnet': dict(
        title="Office-31 with AlexNet: torchvision's, and Caffe's, whose numbers the papers give",
        script='finetune.py', epochs=20, medians=False, against='vs. source-only',
        common=f'{OFFICE_RECIPE} --lr 0.001 --batch_size 64 --iterations 20000 --epoch_steps 1000',
        rows=domains({
            'source': ("Caffe's AlexNet, source-only",
                       '--source bvlc_reference_caffenet.pth --weight_decay 0 --beta 0'),
            'torchvision': ("torchvision's AlexNet, source-only",
                            '--source alexnet --weight_decay 0 --beta 0'),
            'ddc': ("Caffe's AlexNet, DDC", '--source bvlc_reference_caffenet.pth --method ddc'),
            'dan': ("Caffe's AlexNet, DAN", '--source bvlc_reference_caffenet.pth --method dan'),
        }, {'source': ((61.6, 95.4, 99.0, 63.8, 51.1, 49.8), DAN),
            'ddc': ((61.8, 95.0, 98.5, 64.4, 52.1, 52.2), DAN),
            'dan': ((68.5, 96.0, 99.0, 67.0, 54.0, 53.1), DAN)})),
    'office31-resnet50': dict(
        title='Office-31 with ResNet-50',
        script='finetune.py', epochs=20, medians=False, against='vs. source-only',
        common='--dataset office31 --dataroot office31 --source resnet50 --schedule inv '
               '--lr_gamma 3e-4 --lr_power 0.75 --lr 3e-4 --head_lr_mult 10 --bottleneck 256 '
               '--batch_size 32 --iterations 10000 --epoch_steps 500 --weight_decay 5e-4 '
               '--beta 5e-4 --crop area',
        rows=domains({
            'source': ('source-only', ''), 'ddc': ('DDC', '--method ddc'),
            'dan': ('DAN', '--method dan'),
            'dan_tllib': ("Transfer-Learning-Library's DAN", '--method dan --mmd linear '
                          '--mmd_layers bottleneck --dropout 0.5'),
        }, {'source': ((68.4, 96.7, 99.3, 68.9, 62.5, 60.7), DAN),
            'dan': ((80.5, 97.1, 99.6, 78.6, 63.6, 62.8), DAN),
            # of the best epoch on the test images
            'dan_tllib': ((84.2, 98.4, 100.0, 87.3, 66.9, 65.2), TLLIB)})),
    'office31-choices': dict(
        title='Office-31: the learning rate, chosen on 500 held-out images of 2,817 of amazon',
        measure='held-out error, %', value='val_acc', script='finetune.py', epochs=1,
        medians=False, common=f'{OFFICE_RECIPE} {GIVEN} --epoch_steps 300 --bottleneck 256 '
                              '--domain amazon --target webcam --validate 500',
        rows={f'lr_{lr:g}': choice(f'amazon, source-only, learning rate {lr:g}', f'--lr {lr:g}')
              for lr in (.03, .01, .003, .001, .0003, .0001)}),
    'office31-mobilenet': dict(
        title='Office-31: a given MobileNetV2, 300 steps of 32 images at 96x96',
        script='finetune.py', epochs=3, medians=False, against='vs. source-only',
        common=f'{OFFICE_RECIPE} {GIVEN} --lr {OFFICE_LR:g} --epoch_steps 100 --bottleneck 256 '
               '--validate 100',
        rows=domains({'source': ('source-only', ''),
                                            'dan': ('DAN', '--method dan')}, {})),
    'office31-parts': dict(
        title='amazon → webcam, source-only: what each part of the recipe contributes',
        script='finetune.py', epochs=3, medians=False, against='vs. the recipe',
        common=f'--dataset office31 --dataroot office31 --domain amazon --target webcam {GIVEN} '
               f'--lr {OFFICE_LR:g} --epoch_steps 100 --validate 100',
        rows={
            'recipe': row('the recipe: head at ten times the learning rate, inverse decay, crops '
                          'from any place', seeds=1, options='--head_lr_mult 10 --schedule inv'),
            'area': row('crops of any area', seeds=1, plain='recipe',
                        options='--head_lr_mult 10 --schedule inv --crop area'),
            'centre': row('no augmentation', seeds=1, plain='recipe',
                          options='--head_lr_mult 10 --schedule inv --crop centre'),
            'head': row('head at the same rate as the rest', seeds=1, plain='recipe',
                        options='--schedule inv'),
            'constant': row('no learning-rate decay', seeds=1, plain='recipe', options='--schedule '
                            'inv --lr_gamma 0 --head_lr_mult 10'),
        }),
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
    'amazon10-pruned': amazon10_removal(
        'Pruning on ten images of each class of amazon: a given MobileNetV2, 600 steps, pruned '
        'after 200 and 400', 600, 3),
    'amazon10-pruned-long': amazon10_removal(
        'Pruning on ten images of each class of amazon: a given MobileNetV2, 2,400 steps, pruned '
        'after 800 and 1,600, with the settings chosen for 600 steps', 2400, 1),
    'imagenette-mobilenet': dict(   # no epochs: the nets are given
        title='A given MobileNetV2 on ten classes of ImageNet: 500 test images at 224x224',
        measure='top-1 error, %', script='imagenet.py', epochs=0, medians=False,
        common="--imagenetpath imagenette --evaluate mobilenet_v2_imagenet.pth --pixels tensorflow "
               f"--classes '{IMAGENETTE_CLASSES}' --dtype float",
        rows={
            'given': row('as given, batch normalisation folded', seeds=1),
            'restored': row('with batch normalisation restored', options='--restore_bn 512',
                            seeds=1),
        }),
}
