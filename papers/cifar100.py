"""CIFAR-100 with the recipe of RepDistiller, whose table is a common benchmark.

  Tian, Krishnan & Isola, 'Contrastive Representation Distillation',
  https://arxiv.org/abs/1910.10699; https://github.com/HobbitLong/RepDistiller

Its flags are `-r 0.1 -a 0.9` for KD and `-a 0 -b 1000` for AT; it has no numbers for AT+KD. See
docs/deviations.md for what differs here.
"""
from papers.rows import error_of, joined, row, table

REPDISTILLER = 'the README of HobbitLong/RepDistiller'
RESNET = '--model cifar_resnet --shortcut B'
# name: (label, options, accuracy without a teacher)
NETS = {
    'wrn_40_2': ('WRN-40-2', '--depth 40 --width 2', '75.61'),
    'wrn_16_2': ('WRN-16-2', '--depth 16 --width 2', '73.26'),
    'wrn_40_1': ('WRN-40-1', '--depth 40', '71.98'),
    'resnet56': ('ResNet-56', f'{RESNET} --depth 56', '72.34'),
    'resnet110': ('ResNet-110', f'{RESNET} --depth 110', '74.31'),
    'resnet20': ('ResNet-20', f'{RESNET} --depth 20', '69.06'),
    'resnet32': ('ResNet-32', f'{RESNET} --depth 32', '71.14'),
    'resnet32x4': ('ResNet-32x4', f'{RESNET} --depth 32 --width 4', '79.42'),
    'resnet8x4': ('ResNet-8x4', f'{RESNET} --depth 8 --width 4', '72.50'),
}
# (teacher, student): the student's accuracies with KD and with AT
PAIRS = {
    ('wrn_40_2', 'wrn_16_2'): ('74.92', '74.08'),
    ('wrn_40_2', 'wrn_40_1'): ('73.54', '72.77'),
    ('resnet56', 'resnet20'): ('70.66', '70.55'),
    ('resnet110', 'resnet20'): ('70.67', '70.22'),
    ('resnet110', 'resnet32'): ('73.08', '72.31'),
    ('resnet32x4', 'resnet8x4'): ('73.33', '73.44'),
}
# RepDistiller's issue 62 (2025): newer GPU and torch; CMI's own runs, of another schedule
OTHERS = {'resnet20_kd_resnet56': '28.46 (RepDistiller, 2025)', 'wrn_40_2': '24.17 (CMI)',
          'wrn_16_2': '26.44 (CMI)', 'wrn_40_1': '27.81 (CMI)'}


def taught(teacher, student, kd, at):
    """Make the rows of a pair of nets; `kd`, `at`: the student's accuracies."""
    label, options, _ = NETS[student]
    methods = {'kd': ('KD', '--alpha 0.9', error_of(kd)), 'at': ('AT', '--beta 1e+3', error_of(at)),
               'at_kd': ('AT+KD', '--alpha 0.9 --beta 1e+3 --beta_decay constant', '')}
    return {(key := f'{student}_{name}_{teacher}'):
            row(f'{label} from {NETS[teacher][0]}, {method}', paper, REPDISTILLER,
                f'{options} --teacher_id @{teacher} {flags}', student, others=OTHERS.get(key, ''))
            for name, (method, flags, paper) in methods.items()}


TABLES = {
    'cifar100': table(
        "CIFAR-100 with RepDistiller's recipe: WRNs and CIFAR's ResNets", epochs=240,
        common='--dataset CIFAR100 --batch_size 64 --lr 0.05 --epochs 240 '
               '--epoch_step [150,180,210] --lr_decay_ratio 0.1',
        rows={
            **{name: row(f'{label} alone', error_of(accuracy), REPDISTILLER, options,
                         others=OTHERS.get(name, ''))
               for name, (label, options, accuracy) in NETS.items()},
            **joined(taught(*pair, *accuracies) for pair, accuracies in PAIRS.items()),
        }),
}
