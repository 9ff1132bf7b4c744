"""The tables of 'Paying More Attention to Attention', arXiv:1612.03928, and its choices."""
from papers.rows import choice, row

PAPER = 'arXiv:1612.03928'
# What others' runs of 200 epochs of the same nets gave: Micaelli & Storkey (arXiv:1905.09768),
# Ferles, Pereira, chris4540, CMI, trailmet. The best of them chose the epoch on the test images and
# have Nesterov's momentum.
OTHERS = {'WRN-16-1': '8.4 to 9.0', 'WRN-16-2': '5.8 to 6.3', 'WRN-40-1': '6.1 to 6.8',
          'WRN-40-2': '4.8 to 5.4', 'WRN-16-1, AT': '7.96'}
# What the attention transfer paper does not give: chosen in the table cifar10-choices.
F_ACTT_BETA = 10.
GRAD_AT_BETA = .1
MIN_L2_BETA = .1
SYMMETRY_BETA = .1
GRADIENTS_LR = .01      # of the nets without batch normalisation

NO_BN = f'--no_bn --lr {GRADIENTS_LR:g}'
BY_16_2 = '--teacher_id @cifar10/teacher --beta 1e+3'
TABLE_3 = '--model nin --no_pool_relu --randomcrop_pad 0 --weight_decay 0 --deterministic'
ONE_EPOCH = f'{TABLE_3} --epochs 1 --epoch_step []'
THREE_EPOCHS = '--epochs 3 --epoch_step [2,3] --validate 5000'
FIVE_EPOCHS = '--epochs 5 --epoch_step [2,3,4] --validate 30000'
GRADIENTS_GRID = f'{ONE_EPOCH} {NO_BN} --validate 30000'


def transfers(student, suffix, options, plain, teacher, label, papers):
    """The rows AT, F-ActT, KD and AT+KD of a pair of table 1; `papers`: the error of each."""
    given = f'{options} --teacher_id @{teacher}'
    methods = {'at': ('AT', '--beta 1e+3'),
               'f_actt': ('F-ActT', f'--method f_actt --beta {F_ACTT_BETA:g}'),
               'kd': ('KD', '--alpha 0.9'), 'at_kd': ('AT+KD', '--beta 1e+3 --alpha 0.9')}
    found = {}
    for (name, (method, flags)), error in zip(methods.items(), papers, strict=True):
        text = f'{student}, {method}{label}'
        found[name + suffix] = row(text, error, PAPER, f'{given} {flags}', plain,
                                   others=OTHERS.get(text, ''))
    return found


def gradients(label, paper, options, student='--width 0.5', plain='nin_thin'):
    """A row of table 3."""
    return row(label, paper, PAPER, f'{student} {options}', plain, seeds=3)


def fine_tuned(name, label, options, papers):
    """The rows of a data set of table 4; `papers`: the errors of teacher, student, KD and AT."""
    student = f'{options} --source resnet18'
    taught = f'{student} --teacher @{name}_teacher'
    rows = {'teacher': ('ResNet-34, the teacher', f'{options} --source resnet34', ''),
            'student': ('ResNet-18 alone', student, ''),
            'kd': ('ResNet-18, KD', f'{taught} --method kd', f'{name}_student'),
            'at': ('ResNet-18, AT', f'{taught} --method at', f'{name}_student')}
    return {f'{name}_{k}': row(f'{label}, {of}', error, PAPER, words, plain)
            for (k, (of, words, plain)), error in zip(rows.items(), papers, strict=True)}


def taught_by_resnet34(label, flags, paper='', others=''):
    """A row of table 5."""
    return row(f'ResNet-18 from ResNet-34, {label}', paper, PAPER,
               f'--depth 18 --teacher_params resnet34 {flags}', 'student', 1, others)


TABLES = {
    'cifar10': dict(
        title='CIFAR-10, table 1 of the attention transfer paper',
        epochs=200, medians=True, common='',
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
                                 '--dtype float', 'student', 1),
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
    'cifar10-maps': dict(
        title='CIFAR-10, table 2: attention maps, WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', PAPER),
            'cifar10/student': row('no attention transfer', '8.77', PAPER),
            'sum': row('F_sum', '7.99', PAPER, f'{BY_16_2} --at_map sum', 'cifar10/student'),
            'cifar10/at': row('F²_sum', '7.93', PAPER, plain='cifar10/student'),
            'sum4': row('F⁴_sum', '8.09', PAPER, f'{BY_16_2} --at_map sum4', 'cifar10/student'),
            'max': row('F¹_max', '8.08', PAPER, f'{BY_16_2} --at_map max', 'cifar10/student'),
        }),
    'cifar10-groups': dict(     # the paper counts the groups from 1, --at_groups from 0
        title='CIFAR-10, attention transfer in one group of WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31', PAPER),
            'cifar10/student': row('no attention transfer', '8.77', PAPER),
            **{f'group{i + 1}': row(f'group {i + 1}', paper, PAPER, f'{BY_16_2} --at_groups [{i}]',
                                    'cifar10/student')
               for i, paper in enumerate(('8.11', '7.96', '7.97'))},
            'cifar10/at': row('all three', '7.93', PAPER, plain='cifar10/student'),
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
    # the paper gives no rates, epochs and β; of KD and AT its text says the reverse of this table
    'cub-scenes': dict(
        title='CUB and MIT Scenes, table 4 of the attention transfer paper',
        script='finetune.py', epochs=None, medians=False,
        common='--resize keep --freeze first_group bn',
        rows={**fine_tuned('cub', 'CUB', '--dataset cub --dataroot ~/cub --box',
                           ('26.5', '28.5', '27', '27')),
              **fine_tuned('scenes', 'Scenes', '--dataset mit67 --dataroot ~/mit67',
                           ('26', '28.2', '28.1', '27.1'))}),
    # The paper's teacher was a given one; resnet34 is torchvision's. The paper adds the losses at
    # epoch 60 of 100; torchdistill's AT has them from the first one, and its KD is CE / 2 + KL / 2.
    'imagenet': dict(
        title='ImageNet, table 5 of the attention transfer paper',
        measure='top-1, top-5 error, %', top5=True, script='imagenet.py', epochs=100,
        medians=False, common='--imagenetpath ~/ILSVRC2012',
        rows={
            'teacher': row('ResNet-34', '26.1, 8.3', PAPER, '--depth 34', seeds=1),
            'student': row('ResNet-18 alone', '30.4, 10.8', PAPER, '--depth 18', seeds=1,
                           others='30.24 (torchvision)'),
            'at_from_60': taught_by_resnet34('AT from epoch 60 of 100 on', '--beta 1e+3 '
                                             '--transfer_from 0.6', '29.3, 10.0'),
            'at': taught_by_resnet34('AT', '--beta 1e+3', others='29.10 (torchdistill)'),
            'at_all': taught_by_resnet34('AT in all four groups, as in the published code',
                                         '--beta 1e+3 --at_groups [0,1,2,3]'),
            'kd': taught_by_resnet34('KD', '--alpha 0.9'),
            'kd_torchdistill': taught_by_resnet34("torchdistill's KD", '--alpha 0.5 --temperature '
                                                  '1', others='28.63 (torchdistill)'),
            'at_kd': taught_by_resnet34('AT+KD', '--alpha 0.9 --beta 1e+3'),
        }),
}
