"""The tables of L2-SP (arXiv:1802.01483), DELTA (arXiv:1901.09229) and AFA, with ResNet-101."""
from papers.rows import row

AFA = 'the README of xiezheng-cs/AFA'
PADDLE = "the README of PaddlePaddle's DELTA"      # alpha 0.1, weight decay 1e-4, 100 epochs
L2SP = 'the README of holyseven/TransferLearningClassification'

TABLES = {
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
}
