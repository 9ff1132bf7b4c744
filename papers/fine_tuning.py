"""The tables of L2-SP (arXiv:1802.01483), DELTA (arXiv:1901.09229) and AFA (Neural Networks 138).

The numbers of all methods are from AFA's paper, which uses one protocol: batches of 64, 9,000
steps, the learning rate divided by ten at step 6,000. AFA has two stages of 4,500 steps each; the
second starts at the rate at which the first ended. The paper tuned α for each experiment; here all
data sets use the values of its published configuration files, which are for Stanford Dogs. Its
source for MIT Indoor 67 is Places365; those files of weights have to be found first.
"""
from papers.rows import error_of, joined, row, table

AFA = "AFA's paper (Neural Networks 138, 2021)"
RELEASED = 'the README of xiezheng-cs/AFA'
DATA = {'dogs': 'Stanford Dogs', 'cub': 'CUB-200-2011', 'mit67': 'MIT Indoor 67',
        'caltech256-30': 'Caltech-256-30', 'caltech256-60': 'Caltech-256-60',
        'food101': 'Food-101'}
# net: (label, α of each stage of AFA)
NETS = {'resnet101': ('ResNet-101', {'ast': .1, 'act': .15}),
        'mobilenet_v2': ('MobileNetV2', {'ast': .09, 'act': .04})}
# accuracies in table 3: L2, L2-FE, L2-SP, DELTA, AFA
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
# accuracies in tables 4, 5 and 7 to 10, of the rows that `ablations` makes
ABLATED = {'resnet101': ('dfa', 'ast', 'act', 'one_stage', 'ast_second', 'fixed', 'kept'),
           'mobilenet_v2': ('ast', 'act')}
ABLATIONS = {
    'resnet101': {
        'dogs': '88.3±0.2 90.1±0.1 90.1±0.1 90.0±0.1 90.1±0.1 89.8 90.0±0.1',
        'cub': '78.9±0.1 81.7±0.1 81.7±0.3 81.7±0.2 82.2±0.1 82.1 80.8±0.1',
        'mit67': '85.3±0.2 85.6±0.2 85.6±0.2 85.5±0.1 85.8±0.1 85.0 85.6±0.1',
        'caltech256-30': '85.7±0.3 86.9±0.1 87.0±0.1 87.0±0.1 87.0±0.1 86.9 86.5±0.1',
        'caltech256-60': '87.6±0.2 89.2±0.1 89.4±0.1 89.4±0.2 89.4±0.1 88.7 88.6±0.1'},
    'mobilenet_v2': {'dogs': '81.8 81.7', 'cub': '77.0 77.3', 'mit67': '77.8±0.3 77.9±0.1',
                     'caltech256-30': '81.6 81.6', 'caltech256-60': '83.7 83.8'},
}
# errors that others reached with ResNet-101: L2-SP's authors; PaddlePaddle's DELTA, in 100 epochs
OTHERS = {'dogs_l2': '18 to 19 (holyseven)', 'dogs_l2_sp': '11 to 12 (holyseven)',
          'cub_l2': '22.59 (PaddlePaddle)', 'cub_delta': '19.95 (PaddlePaddle)',
          'caltech256-30_l2': '20.14 (PaddlePaddle)', 'caltech256-30_delta': '15.29 (PaddlePaddle)'}
HALF = '--iterations 4500'                       # of the default, 9,000
CONTINUED = '--keep_head --lr 0.001'            # stage two, from the last epoch of stage one


def on(data):
    """Return the options of a data set."""
    return f'--dataset {data} --dataroot ~/{data.partition("-")[0]}'


def weights_of(net, data):
    """Return the pretrained weights that a net starts from on a data set."""
    return f'{net}{"_places365.pth" * (data == "mit67")}'


def source_on(net, data):
    """Return the options of a pretrained net and a data set."""
    return f'--source {weights_of(net, data)} {on(data)}'


def compared(data):
    """Return the methods that AFA is compared with, {name: (label, options)}, as in table 3."""
    delta = '--method delta --channel_weights compute' + ' --alpha 6.4' * (data == 'dogs')
    return {'l2': ('L2', ''), 'l2_fe': ('L2-FE, head only', '--freeze body'),
            'l2_sp': ('L2-SP', '--method l2_sp'), 'delta': ('DELTA', delta)}


def stage(net, method):
    """Return the options of a stage of AFA."""
    return f'--method {method} --alpha {NETS[net][1][method]}'


def of_resnet101(data):
    """Make the rows of a data set in the table finetuning, all from ImageNet's weights, unlike the
    paper's numbers for MIT Indoor 67."""
    papers = TABLE_3['resnet101'].get(data, '').split() if data != 'mit67' else []
    papers = dict(zip(compared(data), map(error_of, papers), strict=False))
    return {f'{data}_{name}': row(f'{DATA[data]}, {method}', papers.get(name, ''), AFA,
                                  f'{on(data)} {options}', '' if name == 'l2' else f'{data}_l2',
                                  others=OTHERS.get(f'{data}_{name}', ''))
            for name, (method, options) in compared(data).items() if name != 'l2_fe'}


def name_of(net, data, method):
    """Return the name of a row in the table afa, which shares rows with the table finetuning."""
    shared = net == 'resnet101' and data != 'mit67' and method in ('l2', 'l2_sp', 'delta')
    return f'finetuning/{data}_{method}' if shared else f'{net}_{data}_{method}'


def of_table_3(net, data):
    """Make the rows of a net and a data set in the table afa."""
    label, (*papers, afa) = f'{NETS[net][0]}, {DATA[data]}', TABLE_3[net][data].split()
    first, start, l2 = name_of(net, data, 'ast'), source_on(net, data), name_of(net, data, 'l2')
    methods = zip(compared(data).items(), papers, strict=True)
    return {
        **{name_of(net, data, name): row(f'{label}, {method}', error_of(paper), AFA,
                                         f'{start} {options}', '' if name == 'l2' else l2)
           for (name, (method, options)), paper in methods},
        first: row(f'{label}, AFA, stage one', options=f'{start} {stage(net, "ast")} {HALF}'),
        name_of(net, data, 'act'): row(
            f'{label}, AFA, stage two', error_of(afa), AFA,
            f'--source @{first} {on(data)} {stage(net, "act")} {HALF} {CONTINUED}', l2)}


def ablations(net, data):
    """Make the rows of a net and a data set in the table afa-ablations. The paper does not say how
    long a single stage was trained; here it takes as long as both, and DFA and both kinds of
    attention in one stage have the α of AST."""
    base, start, alpha = f'{net}_{data}', source_on(net, data), NETS[net][1]['ast']
    afa = [f'@afa/{name_of(net, data, k)}' for k in ('ast', 'act')]
    ast, act, second = stage(net, 'ast'), stage(net, 'act'), f'{HALF} {CONTINUED}'
    rows = {
        'dfa': ('DFA: features without attention',
                f'{start} --method feature_map --positions sum --alpha {alpha}'),
        'ast': ('AST only', f'{start} {ast}'),
        'act': ('ACT only', f'{start} {act}'),
        'one_stage': ('AST and ACT in one stage', f'{start} --method ast_act --alpha {alpha}'),
        'act_first': ('reverse order: ACT', f'{start} {act} {HALF}'),
        'ast_second': ('reverse order: ACT, then AST',
                       f'--source @{base}_act_first {on(data)} {ast} {second}'),
        'fixed_first': ('attention the same for all images, stage one',
                        f'{start} {ast} {HALF} --fixed_attention {afa[0]}'),
        'fixed': ('AFA, attention the same for all images',
                  f'--source @{base}_fixed_first {on(data)} {act} {second} '
                  f'--fixed_attention {afa[1]}'),
        'kept': ('AFA, the source not replaced',
                 f'--source {afa[0]} {on(data)} {act} {second} '
                 f'--teacher {weights_of(net, data)}')}
    # act_first and fixed_first have no number: they are the first halves of other rows
    papers = dict(zip(ABLATED[net], map(error_of, ABLATIONS[net][data].split()), strict=True))
    plain = f'{base}_dfa' if 'dfa' in papers else ''
    return {f'{base}_{k}': row(f'{NETS[net][0]}, {DATA[data]}, {label}', papers.get(k, ''), AFA,
                               options, plain if k in papers and k != 'dfa' else '')
            for k, (label, options) in rows.items() if plain or k in papers}


PAIRS = [(net, data) for net, by_data in TABLE_3.items() for data in by_data]
TABLES = {
    'finetuning': table(
        'Fine-tuning ResNet-101 with L2, L2-SP and DELTA',
        script='finetune.py', epochs=None, against='vs. L2', common='--source resnet101',
        rows=joined(map(of_resnet101, DATA))),
    'afa': table(
        'AFA: spatial attention (AST), then channel attention (ACT), and the methods that it is '
        'compared with',
        script='finetune.py', epochs=None, against='vs. L2',
        rows={**joined(of_table_3(*pair) for pair in PAIRS),
              **{f'{net.partition("_")[0]}_released': row(
                     f'{NETS[net][0]}, Stanford Dogs, released weights', error, RELEASED,
                     f'{on("dogs")} --evaluate afa_{net}.pth', seeds=1)
                 for net, error in (('resnet101', '9.78'), ('mobilenet_v2', '17.83'))}}),
    'afa-ablations': table(
        'AFA without attention, with one kind of it, in one stage, in the reverse order, '
        'with attention that is the same for all images, and with the source not replaced',
        script='finetune.py', epochs=None, against='vs. DFA',
        rows=joined(ablations(*pair) for pair in PAIRS)),
}
