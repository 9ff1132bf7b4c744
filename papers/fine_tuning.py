"""The tables of L2-SP (arXiv:1802.01483), DELTA (arXiv:1901.09229) and AFA (Neural Networks 138).

The numbers of all methods are from AFA's paper, with one protocol: batch 64, 9,000 steps, a tenth
of the learning rate from step 6,000 on. AFA has two stages of 4,500 steps each, of which the second
starts with the rate that the first ended with. The paper's strengths α were chosen for each
experiment; those of its published configuration files, for Stanford Dogs, are used for all sets.
MIT Indoors 67 has Places365 as its source there, files that must be found first.
"""
from papers.rows import error_of, row

AFA = "AFA's paper (Neural Networks 138, 2021)"
RELEASED = 'the README of xiezheng-cs/AFA'
DATA = {'dogs': 'Stanford Dogs', 'cub': 'CUB-200-2011', 'mit67': 'MIT Indoors 67',
        'caltech256-30': 'Caltech-256-30', 'caltech256-60': 'Caltech-256-60'}
# net: label, α of AST and of ACT
NETS = {'resnet101': ('ResNet-101', .1, .15), 'mobilenet_v2': ('MobileNetV2', .09, .04)}
# Table 3, accuracies: L2, L2-FE, L2-SP, DELTA, AFA
TABLE_3 = {
    'resnet101': {
        'dogs': '83.3±0.2 84.7±0.1 88.3±0.2 88.7±0.1 90.1±0.0',
        'cub': '78.4±0.1 61.5±0.1 79.5±0.1 80.5±0.1 82.2±0.1',
        'mit67': '83.7±0.3 80.4±0.2 85.1±0.1 85.5±0.3 85.9±0.1',
        'caltech256-30': '84.7±0.3 82.9±0.2 85.4±0.2 86.6±0.1 87.2±0.1',
        'caltech256-60': '87.2±0.3 85.3±0.2 87.2±0.1 88.7±0.1 89.4±0.1'},
    'mobilenet_v2': {
        'dogs': '75.5±0.2 78.3±0.2 81.1±0.1 81.3±0.1 82.1±0.1',
        'cub': '77.3±0.2 57.5±0.2 76.5±0.4 77.1±0.3 77.6±0.1',
        'mit67': '76.0±0.2 65.0±0.4 75.7±0.5 77.1±0.3 78.6±0.1',
        'caltech256-30': '78.5±0.2 77.8±0.3 81.0±0.3 81.2±0.1 81.9±0.1',
        'caltech256-60': '80.8±0.1 80.9±0.1 83.0±0.1 83.3±0.1 83.9±0.1'},
}
# Tables 4, 5 and 8: DFA (of ResNet-101), AST only, ACT only, ACT before AST (of ResNet-101)
ABLATIONS = {
    'resnet101': {
        'dogs': '88.3±0.2 90.1±0.1 90.1±0.1 90.1', 'cub': '78.9±0.1 81.7±0.1 81.7±0.3 82.2',
        'mit67': '85.3±0.2 85.6±0.2 85.6±0.2 85.8',
        'caltech256-30': '85.7±0.3 86.9±0.1 87.0±0.1 87.0',
        'caltech256-60': '87.6±0.2 89.2±0.1 89.4±0.1 89.4'},
    'mobilenet_v2': {
        'dogs': '- 81.8 81.7 -', 'cub': '- 77.0 77.3 -', 'mit67': '- 77.8±0.3 77.9±0.1 -',
        'caltech256-30': '- 81.6 81.6 -', 'caltech256-60': '- 83.7 83.8 -'},
}
# What others' runs of ResNet-101 gave: L2-SP's authors; PaddlePaddle's DELTA, in 100 epochs.
OTHERS = {'dogs_l2': '18 to 19 (holyseven)', 'dogs_l2_sp': '11 to 12 (holyseven)',
          'cub_l2': '22.59 (PaddlePaddle)', 'cub_delta': '19.95 (PaddlePaddle)',
          'caltech256-30_l2': '20.14 (PaddlePaddle)', 'caltech256-30_delta': '15.29 (PaddlePaddle)'}


def on(data):
    """The options of a data set."""
    return f'--dataset {data} --dataroot ~/{data.partition("-")[0]}'


def start_of(net, data):
    """The options of what a net starts from, and of a data set."""
    return f'--source {net}{"_places365.pth" * (data == "mit67")} {on(data)}'


def compared(data):
    """{name: (label, options)} of the methods that AFA is compared with, in the order of table 3.
    """
    delta = '--method delta --channel_weights compute' + ' --alpha 6.4' * (data == 'dogs')
    return {'l2': ('L2', ''), 'l2_fe': ('L2-FE, the head alone', '--freeze body'),
            'l2_sp': ('L2-SP', '--method l2_sp'), 'delta': ('DELTA', delta)}


def stage(net, method):
    """The options of a stage of AFA."""
    _, ast, act = NETS[net]
    return f'--method {method} --alpha {ast if method == "ast" else act} --iterations 4500'


def of_resnet101(data):
    """The rows of a data set in the table finetuning, from ImageNet's weights. The paper's numbers
    for MIT Indoors 67 are not from those."""
    papers = TABLE_3['resnet101'][data].split() if data in DATA and data != 'mit67' else []
    papers = dict(zip(compared(data), map(error_of, papers), strict=False))
    return {f'{data}_{name}': row(f'{DATA.get(data, "Food-101")}, {method}', papers.get(name, ''),
                                  AFA, f'{on(data)} {options}',
                                  '' if name == 'l2' else f'{data}_l2',
                                  others=OTHERS.get(f'{data}_{name}', ''))
            for name, (method, options) in compared(data).items() if name != 'l2_fe'}


def name_of(net, data, method):
    """The name of a row in the table afa, which shares some with the table finetuning."""
    shared = net == 'resnet101' and data != 'mit67' and method in ('l2', 'l2_sp', 'delta')
    return f'finetuning/{data}_{method}' if shared else f'{net}_{data}_{method}'


def of_table_3(net, data):
    """The rows of a net and a data set in the table afa."""
    label, (*papers, afa) = f'{NETS[net][0]}, {DATA[data]}', TABLE_3[net][data].split()
    first, start, l2 = name_of(net, data, 'ast'), start_of(net, data), name_of(net, data, 'l2')
    return {
        **{name_of(net, data, name): row(f'{label}, {method}', error_of(paper), AFA,
                                         f'{start} {options}', '' if name == 'l2' else l2)
           for (name, (method, options)), paper in zip(compared(data).items(), papers,
                                                       strict=True)},
        first: row(f'{label}, AFA, stage one', options=f'{start} {stage(net, "ast")}'),
        name_of(net, data, 'act'): row(
            f'{label}, AFA, stage two', error_of(afa), AFA,
            f'--source @{first} {on(data)} --keep_head {stage(net, "act")} --lr 0.001', l2)}


def ablations(net, data):
    """The rows of a net and a data set in the table afa-ablations. The paper does not say how long
    one stage alone was trained: here as long as both, and DFA with the strength of AST."""
    label, (dfa, ast, act, reverse) = f'{NETS[net][0]}, {DATA[data]}', ABLATIONS[net][data].split()
    base, start = f'{net}_{data}', start_of(net, data)
    twice = {name: stage(net, name).replace('--iterations 4500', '') for name in ('ast', 'act')}
    whole = dfa != '-'      # DFA and the reverse order are there
    plain = f'{base}_dfa' if whole else ''
    rows = {
        'dfa': whole and row(f'{label}, DFA: features without attention', error_of(dfa), AFA,
                             f'{start} --method feature_map --positions sum --alpha '
                             f'{NETS[net][1]}'),
        'ast': row(f'{label}, AST only', error_of(ast), AFA, f'{start} {twice["ast"]}', plain),
        'act': row(f'{label}, ACT only', error_of(act), AFA, f'{start} {twice["act"]}', plain),
        'act_first': whole and row(f'{label}, ACT, before AST',
                                   options=f'{start} {stage(net, "act")}'),
        'ast_second': whole and row(f'{label}, ACT, then AST', error_of(reverse), AFA,
                                    f'--source @{base}_act_first {on(data)} --keep_head '
                                    f'{stage(net, "ast")} --lr 0.001', plain)}
    return {f'{base}_{name}': r for name, r in rows.items() if r}


def joined(rows_of):
    """Join the rows that rows_of(net, data) gives for all nets and data sets."""
    return {k: r for net in NETS for data in DATA for k, r in rows_of(net, data).items()}


TABLES = {
    'finetuning': dict(
        title='Fine-tuning of ResNet-101 with L2, L2-SP and DELTA',
        script='finetune.py', epochs=None, medians=False, against='vs. L2',
        common='--source resnet101',
        rows={k: r for data in (*DATA, 'food101') for k, r in of_resnet101(data).items()}),
    'afa': dict(            # the last epoch of stage one is handed on
        title='AFA: spatial attention (AST), then channel attention (ACT), with what it is '
              'compared with',
        script='finetune.py', epochs=None, medians=False, against='vs. L2', common='',
        rows={
            **joined(of_table_3),
            'resnet101_released': row('ResNet-101, Stanford Dogs, the released file', '9.78',
                                      RELEASED, f'{on("dogs")} --evaluate afa_resnet101.pth',
                                      seeds=1),
            'mobilenet_released': row('MobileNetV2, Stanford Dogs, the released file', '17.83',
                                      RELEASED, f'{on("dogs")} --evaluate afa_mobilenet_v2.pth',
                                      seeds=1),
        }),
    'afa-ablations': dict(
        title='AFA without attention, with one kind of it, and in the reverse order',
        script='finetune.py', epochs=None, medians=False, against='vs. DFA', common='',
        rows=joined(ablations)),
}
