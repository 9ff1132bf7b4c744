"""The tables of 'Paying More Attention to Attention', arXiv:1612.03928, and their choices."""
from papers.rows import choice, choices, joined, row, table

PAPER = 'arXiv:1612.03928'
# Errors that others reached in 200 epochs with the same nets: Micaelli & Storkey
# (arXiv:1905.09768), Ferles, Pereira, chris4540, CMI, trailmet. The best of them chose the epoch on
# the test images and used Nesterov momentum.
OTHERS = {'WRN-16-1': '8.4 to 9.0', 'WRN-16-2': '5.8 to 6.3', 'WRN-40-1': '6.1 to 6.8',
          'WRN-40-2': '4.8 to 5.4', 'WRN-16-1, AT': '7.96 (trailmet)'}
# Not given in the paper, chosen in the table cifar10-choices: β, the learning rate without BN.
F_ACTT = '--method f_actt --beta 10'
GRAD_AT, MIN_L2, SYMMETRY = (f'--method {k} --beta 0.1' for k in ('grad_at', 'min_l2', 'symmetry'))
NO_BN = '--no_bn --lr 0.01'

BY_16_2 = '--teacher_id @cifar10/teacher --beta 1e+3'
TABLE_3 = '--model nin --no_pool_relu --randomcrop_pad 0 --weight_decay 0 --deterministic'
ONE_EPOCH = f'{TABLE_3} --epochs 1 --epoch_step []'
THREE_EPOCHS = '--epochs 3 --epoch_step [2,3] --validate 5000'
FIVE_EPOCHS = '--epochs 5 --epoch_step [2,3,4] --validate 30000'
GRADIENTS_GRID = f'{ONE_EPOCH} {NO_BN} --validate 30000'


def transfers(student, suffix, options, plain, teacher, label, papers):
    """Make the rows AT, F-ActT, KD, AT+KD of a pair of nets in table 1; `papers`: their errors."""
    methods = (('at', 'AT', '--beta 1e+3'), ('f_actt', 'F-ActT', F_ACTT),
               ('kd', 'KD', '--alpha 0.9'), ('at_kd', 'AT+KD', '--beta 1e+3 --alpha 0.9'))
    return {name + suffix: row(text := f'{student}, {method}{label}', error, PAPER,
                               f'{options} --teacher_id @{teacher} {flags}', plain,
                               others=OTHERS.get(text, ''))
            for (name, method, flags), error in zip(methods, papers, strict=True)}


def fine_tuned(name, label, options, papers):
    """Make the rows of a data set in table 4; `papers`: the errors of teacher, student, KD, AT."""
    student = f'{options} --source resnet18'
    taught = f'{student} --teacher @{name}_teacher'
    rows = {'teacher': ('ResNet-34, the teacher', f'{options} --source resnet34', ''),
            'student': ('ResNet-18 alone', student, ''),
            'kd': ('ResNet-18, KD', f'{taught} --method kd', f'{name}_student'),
            'at': ('ResNet-18, AT', f'{taught} --method at', f'{name}_student')}
    return {f'{name}_{k}': row(f'{label}, {of}', error, PAPER, words, plain)
            for (k, (of, words, plain)), error in zip(rows.items(), papers, strict=True)}


TABLES = {
    'cifar10': table(
        'CIFAR-10, table 1 of the attention transfer paper',
        epochs=200, medians=True,
        rows={
            'teacher': row('WRN-16-2, the teacher', '6.31', PAPER, '--depth 16 --width 2',
                           others=OTHERS['WRN-16-2']),
            'student': row('WRN-16-1 alone', '8.77', PAPER, others=OTHERS['WRN-16-1']),
            **transfers('WRN-16-1', '', '', 'student', 'teacher', '',
                        ('7.93', '8.51', '7.41', '')),
            'at_kd': row('WRN-16-1, AT+KD, constant β', options='--teacher_id @teacher --beta 1e+3 '
                         '--alpha 0.9 --beta_decay constant', plain='student'),
            'at_kd_decay': row('WRN-16-1, AT+KD', '7.51', PAPER,
                               '--teacher_id @teacher --beta 1e+3 --alpha 0.9', 'student'),
            'student_float': row('WRN-16-1 alone, in float instead of bfloat16', '8.77', PAPER,
                                 '--dtype float', 'student', 1, OTHERS['WRN-16-1']),
            'wrn_40_1': row('WRN-40-1, a teacher', '6.58', PAPER, '--depth 40 --width 1',
                            others=OTHERS['WRN-40-1']),
            **transfers('WRN-16-1', '_40_1', '', 'student', 'wrn_40_1', ' from WRN-40-1',
                        ('8.25', '8.62', '8.39', '8.01')),
            'wrn_40_2': row('WRN-40-2, a teacher', '5.23', PAPER, '--depth 40 --width 2',
                            others=OTHERS['WRN-40-2']),
            **transfers('WRN-16-2', '_40_2', '--width 2', 'teacher', 'wrn_40_2', ' from WRN-40-2',
                        ('5.85', '6.24', '6.08', '5.71')),
            'nin_wide': row('NIN-wide, a teacher', '7.28', PAPER, '--model nin'),
            'nin_thin': row('NIN-thin alone', '9.38', PAPER, '--model nin --width 0.5'),
            **transfers('NIN-thin', '_nin', '--model nin --width 0.5', 'nin_thin', 'nin_wide', '',
                        ('8.93', '9.05', '8.55', '8.33')),
        }),
    'cifar10-maps': table(
        'CIFAR-10, table 2: attention maps, WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True,
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', PAPER,
                                   others=OTHERS['WRN-16-2']),
            'cifar10/student': row('no attention transfer', '8.77', PAPER,
                                   others=OTHERS['WRN-16-1']),
            'sum': row('F_sum', '7.99', PAPER, f'{BY_16_2} --at_map sum', 'cifar10/student'),
            'cifar10/at': row('F²_sum', '7.93', PAPER, plain='cifar10/student',
                              others=OTHERS['WRN-16-1, AT']),
            'sum4': row('F⁴_sum', '8.09', PAPER, f'{BY_16_2} --at_map sum4', 'cifar10/student'),
            'max': row('F¹_max', '8.08', PAPER, f'{BY_16_2} --at_map max', 'cifar10/student'),
        }),
    'cifar10-groups': table(     # the paper counts the groups from 1, --at_groups from 0
        'CIFAR-10, attention transfer in one group of WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True,
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', PAPER,
                                   others=OTHERS['WRN-16-2']),
            'cifar10/student': row('no attention transfer', '8.77', PAPER,
                                   others=OTHERS['WRN-16-1']),
            **{f'group{i + 1}': row(f'group {i + 1}', paper, PAPER, f'{BY_16_2} --at_groups [{i}]',
                                    'cifar10/student')
               for i, paper in enumerate(('8.11', '7.96', '7.97'))},
            'cifar10/at': row('all three', '7.93', PAPER, plain='cifar10/student',
                              others=OTHERS['WRN-16-1, AT']),
        }),
    'cifar10-choices': table(
        'CIFAR-10: settings that the paper does not give, chosen on held-out training images',
        measure='held-out error, %', epochs=1,
        rows={
            **choices('lr', 'NIN-thin without BN, learning rate', f'{ONE_EPOCH} --width 0.5 '
                      '--no_bn --validate 5000 --lr', (.1, .03, .01, .003)),
            'teacher': choice('WRN-16-2, the teacher', f'--width 2 {THREE_EPOCHS}'),
            'student': choice('WRN-16-1 alone', THREE_EPOCHS),
            **choices('f_actt', 'WRN-16-1, F-ActT, β =', f'{THREE_EPOCHS} --teacher_id @teacher '
                      '--method f_actt --beta', (.1, 1, 10, 100), 'student'),
            'nin_wide': choice('NIN-wide without BN, the teacher', GRADIENTS_GRID),
            'nin_thin': choice('NIN-thin without BN alone', f'{GRADIENTS_GRID} --width 0.5'),
            **joined(choices(method, f'NIN-thin, {label}, β =', f'{GRADIENTS_GRID} --width 0.5 '
                             f'{teacher} --method {method} --beta', (.1, 1, 10), 'nin_thin')
                     for method, label, teacher in (
                         ('min_l2', 'min-l2', ''),
                         ('grad_at', 'gradient AT', '--teacher_id @nin_wide'),
                         ('symmetry', 'symmetry norm', ''))),
            'teacher_5': choice('WRN-16-2, the teacher of AT+KD', f'--width 2 {FIVE_EPOCHS}'),
            **{f'at_kd_{v}': choice(f'WRN-16-1, AT+KD, β {v}', '--teacher_id @teacher_5 --alpha '
                                    f'0.9 --beta 1e+3 --beta_decay {v} {FIVE_EPOCHS}',
                                    '' if v == 'constant' else 'at_kd_constant')
               for v in ('constant', 'linear', 'cosine', 'step')},
        }),
    'cifar10-gradients': table(  # single runs in the paper
        'CIFAR-10, table 3: gradient attention, NIN-wide -> NIN-thin without BN, flips only',
        epochs=200, common=TABLE_3,
        rows={
            'nin_wide': row('NIN-wide, teacher of gradient AT and KD', options=NO_BN, seeds=3),
            'nin_wide_bn': row('NIN-wide with BN, teacher of activation AT', seeds=3),
            'nin_thin': row('NIN-thin alone', '13.5', PAPER, f'--width 0.5 {NO_BN}', seeds=3),
            **{k: row(label, paper, PAPER, f'--width 0.5 {NO_BN} {flags}', 'nin_thin', 3)
               for k, label, paper, flags in (
                   ('min_l2', 'min-l2', '12.5', MIN_L2),
                   ('grad_at', 'gradient AT', '12.1', f'--teacher_id @nin_wide {GRAD_AT}'),
                   ('kd', 'KD', '12.1', '--teacher_id @nin_wide --alpha 0.9'),
                   ('symmetry', 'symmetry norm', '11.8', SYMMETRY),
                   ('at', 'activation AT', '11.2', '--teacher_id @nin_wide_bn --beta 1e+3'))},
        }),
    # The paper gives neither learning rates, epochs nor β; its text ranks KD and AT the other way
    # round.
    'cub-scenes': table(
        'CUB and MIT Scenes, table 4 of the attention transfer paper',
        script='finetune.py', epochs=None, common='--resize keep --freeze first_group bn',
        rows={**fine_tuned('cub', 'CUB', '--dataset cub --dataroot ~/cub --box',
                           ('26.5', '28.5', '27', '27')),
              **fine_tuned('scenes', 'Scenes', '--dataset mit67 --dataroot ~/mit67',
                           ('26', '28.2', '28.1', '27.1'))}),
    # The paper took a pretrained teacher; resnet34 is torchvision's. The paper adds the losses at
    # epoch 60 of 100; torchdistill's AT has them from the start, and its KD is CE / 2 + KL / 2.
    'imagenet': table(
        'ImageNet, table 5 of the attention transfer paper',
        measure='top-1, top-5 error, %', top5=True, script='imagenet.py', epochs=100,
        common='--imagenetpath ~/ILSVRC2012',
        rows={
            'teacher': row('ResNet-34', '26.1, 8.3', PAPER, '--depth 34', seeds=1,
                           others='26.69, 8.58 (torchvision); 26.72, 8.74 (functional-zoo)'),
            'student': row('ResNet-18 alone', '30.4, 10.8', PAPER, '--depth 18', seeds=1,
                           others='30.24, 10.92 (torchvision)'),
            **{k: row(f'ResNet-18 from ResNet-34, {label}', paper, PAPER, f'--depth 18 '
                      f'--teacher_params resnet34 {flags}', 'student', 1, others)
               for k, label, flags, paper, others in (
                   ('at_from_60', 'AT from epoch 60 of 100', '--beta 1e+3 --transfer_from 0.6',
                    '29.3, 10.0', '29.44, 10.12 (the released net)'),
                   ('at', 'AT', '--beta 1e+3', '', '29.10 (torchdistill)'),
                   ('at_all', 'AT in all four groups, as in the published code',
                    '--beta 1e+3 --at_groups [0,1,2,3]', '', ''),
                   ('kd', 'KD', '--alpha 0.9', '', ''),
                   ('kd_torchdistill', "torchdistill's KD", '--alpha 0.5 --temperature 1', '',
                    '28.63 (torchdistill)'),
                   ('at_kd', 'AT+KD', '--alpha 0.9 --beta 1e+3', '', ''))},
        }),
}
