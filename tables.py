"""The tables of the papers: the command behind each number, and the numbers that its logs hold.

    python tables.py commands TABLE     the shell lines, teachers first
    python tables.py run TABLE          run what is not finished, then show
    python tables.py show TABLE         the table, and its learning curves as curves.png
    python tables.py report             write the tables into the README, from the logs alone

With --epochs N a table is run in a schedule of N epochs, into a folder of its own, TABLE-Nepochs.
Several `run`s side by side share the work: each run is done by one of them.

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt: the last epoch's test
error, mean ± standard deviation over seeds (and the median, where the paper has that), and its
difference to the plain student's, mean ± standard error over the seeds that both have. Seconds are
those of the median epoch times the epochs.
"""
import collections
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time

import runs
import training
from utils import InputError

README = pathlib.Path(__file__).with_name('README.md')
WAIT = 5            # seconds until `run` looks again at what other processes are running
SHORT_SEEDS = 3     # at most, in a short schedule
# What the paper does not give; to be chosen on training images held out.
F_ACTT_BETA = 1.
GRAD_AT_BETA = 1.
MIN_L2_BETA = .1
SYMMETRY_BETA = 1.
GRADIENTS_LR = .01  # of the nets without batch normalisation


# ---- the tables ---------------------------------------------------------------------------------

def row(label, paper='', options='', plain='', seeds=5):
    """A row: the paper's error in %; the options of cifar.py, in which @ROW stands for the run of
    that row with the same seed; the row of the plain student; the number of seeds."""
    return dict(label=label, paper=paper, options=options, plain=plain, seeds=seeds)


def transfers(student, suffix, options, plain, teacher, label, papers):
    """The rows AT, F-ActT, KD and AT+KD of a pair of table 1."""
    given = f'{options} --teacher_id @{teacher}'
    methods = {'at': ('AT', '--beta 1e+3'),
               'f_actt': ('F-ActT', f'--method f_actt --beta {F_ACTT_BETA:g}'),
               'kd': ('KD', '--alpha 0.9'), 'at_kd': ('AT+KD', '--beta 1e+3 --alpha 0.9')}
    return {name + suffix: row(f'{student}, {method}{label}', paper, f'{given} {flags}', plain)
            for (name, (method, flags)), paper in zip(methods.items(), papers, strict=True)}


def gradients(label, paper, options, teacher=False):
    """A row of table 3: NIN-thin without BN, or a teacher."""
    student = '' if teacher else f'--width 0.5 {NO_BN} '
    return row(label, paper, student + options, '' if teacher else 'nin_thin', seeds=3)


NO_BN = f'--no_bn --lr {GRADIENTS_LR:g}'
TABLE_3 = '--model nin --no_pool_relu --randomcrop_pad 0 --weight_decay 0 --deterministic'
DECAYS = ('constant', 'linear', 'cosine', 'step')
FIVE_EPOCHS = '--epochs 5 --epoch_step [2,3,4] --validate 30000'
THREE_EPOCHS = '--epochs 3 --epoch_step [2,3] --validate 5000'
ONE_EPOCH = f'{TABLE_3} --epochs 1 --epoch_step []'
GRADIENTS_GRID = f'{ONE_EPOCH} {NO_BN} --validate 30000'
BY_16_2 = '--teacher_id @cifar10/teacher --beta 1e+3'
# The paper's errors, after 200 epochs. Table 1: 8.77, 7.93, 6.31, 8.25, 8.39, 6.58, 5.85, 6.08 and
# 5.23 are quoted alike by the Rocket Launching paper (arXiv:1708.04106) or stand in the paper's
# text; the others could not be checked and are marked so. The other tables' stand in the text.
# table -> title, number of epochs, whether the paper's numbers are medians of five runs (unverified
# for table 1), options of all rows, rows by name. A row TABLE/ROW is that row of another table,
# under another label.
TABLES = {
    'demo': dict(
        title='shapes, drawn by the program: 5,000 training and 1,000 test images of 32x32',
        epochs=8, medians=False,
        common="--dataset shapes --batch_size 64 --epochs 8 --epoch_step '[0.6,0.8,0.9]'",
        rows={
            'teacher': row('WRN-16-2, the teacher', '', '--depth 16 --width 2', seeds=1),
            'student': row('WRN-16-1 alone', seeds=1),
            'at': row('WRN-16-1, AT', '', '--teacher_id @teacher --beta 1e+3', 'student', 1),
            'kd': row('WRN-16-1, KD', '', '--teacher_id @teacher --alpha 0.9', 'student', 1),
            'at_kd': row('WRN-16-1, AT+KD', '', '--teacher_id @teacher --beta 1e+3 --alpha 0.9',
                         'student', 1),
        }),
    'cifar10': dict(
        title='CIFAR-10, table 1 of the attention transfer paper',
        epochs=200, medians=True, common='',
        rows={
            'teacher': row('WRN-16-2, the teacher', '6.31', '--depth 16 --width 2'),
            'student': row('WRN-16-1 alone', '8.77'),
            **transfers('WRN-16-1', '', '', 'student', 'teacher', '',
                        ('7.93', '8.51 (unverified)', '7.41 (unverified)', '')),
            'at_kd': row('WRN-16-1, AT+KD, constant β', '', '--teacher_id @teacher --beta 1e+3 '
                         '--alpha 0.9 --beta_decay constant', 'student'),
            'at_kd_decay': row('WRN-16-1, AT+KD', '7.51 (unverified)',
                               '--teacher_id @teacher --beta 1e+3 --alpha 0.9', 'student'),
            'student_float': row('WRN-16-1 alone, in float instead of bfloat16', '8.77',
                                 '--dtype float', 'student', 1),
            'wrn_40_1': row('WRN-40-1, a teacher', '6.58', '--depth 40 --width 1'),
            **transfers('WRN-16-1', '_40_1', '', 'student', 'wrn_40_1', ' from WRN-40-1',
                        ('8.25', '8.62 (unverified)', '8.39', '8.01 (unverified)')),
            'wrn_40_2': row('WRN-40-2, a teacher', '5.23', '--depth 40 --width 2'),
            **transfers('WRN-16-2', '_40_2', '--width 2', 'teacher', 'wrn_40_2',
                        ' from WRN-40-2', ('5.85', '6.24 (unverified)', '6.08',
                                           '5.71 (unverified)')),
            'nin_wide': row('NIN-wide, a teacher', '7.28 (unverified)', '--model nin'),
            'nin_thin': row('NIN-thin alone', '9.38 (unverified)', '--model nin --width 0.5'),
            **transfers('NIN-thin', '_nin', '--model nin --width 0.5', 'nin_thin', 'nin_wide', '',
                        ('8.93 (unverified)', '9.05 (unverified)', '8.55 (unverified)',
                         '8.33 (unverified)')),
        }),
    'cifar10-maps': dict(
        title='CIFAR-10, table 2: attention maps, WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31'),
            'cifar10/student': row('no attention transfer', '8.77'),
            'sum': row('F_sum', '7.99', f'{BY_16_2} --at_map sum', 'cifar10/student'),
            'cifar10/at': row('F²_sum', '7.93', plain='cifar10/student'),
            'sum4': row('F⁴_sum', '8.09', f'{BY_16_2} --at_map sum4', 'cifar10/student'),
            'max': row('F¹_max', '8.08', f'{BY_16_2} --at_map max', 'cifar10/student'),
        }),
    'cifar10-groups': dict(     # the paper counts the groups from 1, --at_groups from 0
        title='CIFAR-10, attention transfer in one group of WRN-16-2 -> WRN-16-1',
        epochs=200, medians=True, common='',
        rows={
            'cifar10/teacher': row('WRN-16-2, the teacher', '6.31'),
            'cifar10/student': row('no attention transfer', '8.77'),
            'group1': row('group 1', '8.11', f'{BY_16_2} --at_groups [0]', 'cifar10/student'),
            'group2': row('group 2', '7.96', f'{BY_16_2} --at_groups [1]', 'cifar10/student'),
            'group3': row('group 3', '7.97', f'{BY_16_2} --at_groups [2]', 'cifar10/student'),
            'cifar10/at': row('all three', '7.93', plain='cifar10/student'),
        }),
    'cifar10-choices': dict(
        title='what the paper leaves open: error on training images of CIFAR-10 held out',
        epochs=1, medians=False, common='',
        rows={
            **{f'lr_{v:g}': row(f'NIN-thin without BN, learning rate {v:g}', '',
                                f'{ONE_EPOCH} --width 0.5 --no_bn --lr {v:g} --validate 5000',
                                seeds=1) for v in (.1, .03, .01, .003)},
            'teacher': row('WRN-16-2, the teacher', '', f'--width 2 {THREE_EPOCHS}', seeds=1),
            'student': row('WRN-16-1 alone', '', THREE_EPOCHS, seeds=1),
            **{f'f_actt_{v:g}': row(f'WRN-16-1, F-ActT, β = {v:g}', '', '--teacher_id @teacher '
                                    f'--method f_actt --beta {v:g} {THREE_EPOCHS}', 'student', 1)
               for v in (.1, 1, 10, 100)},
            'nin_wide': row('NIN-wide without BN, the teacher', '', f'{GRADIENTS_GRID}', seeds=1),
            'nin_thin': row('NIN-thin without BN alone', '', f'{GRADIENTS_GRID} --width 0.5',
                            seeds=1),
            **{f'{method}_{v:g}': row(f'NIN-thin, {label}, β = {v:g}', '', f'{GRADIENTS_GRID} '
                                      f'--width 0.5 --method {method} --beta {v:g}{teacher}',
                                      'nin_thin', 1)
               for method, label, teacher in (('min_l2', 'min-l2', ''),
                                              ('grad_at', 'gradient AT', ' --teacher_id @nin_wide'),
                                              ('symmetry', 'symmetry norm', ''))
               for v in (.1, 1, 10)},
            'teacher_5': row('WRN-16-2, the teacher of AT+KD', '', f'--width 2 {FIVE_EPOCHS}',
                             seeds=1),
            **{f'at_kd_{v}': row(f'WRN-16-1, AT+KD, β {v}', '', '--teacher_id @teacher_5 --alpha '
                                 f'0.9 --beta 1e+3 --beta_decay {v} {FIVE_EPOCHS}',
                                 'at_kd_constant', 1) for v in DECAYS},
        }),
    'cifar10-gradients': dict(  # single runs in the paper
        title='CIFAR-10, table 3: gradient attention, NIN-wide -> NIN-thin without BN, flips only',
        epochs=200, medians=False,
        common=TABLE_3,
        rows={
            'nin_wide': gradients('NIN-wide, teacher of gradient AT and KD', '', NO_BN, True),
            'nin_wide_bn': gradients('NIN-wide with BN, teacher of activation AT', '', '', True),
            'nin_thin': row('NIN-thin alone', '13.5', f'--width 0.5 {NO_BN}', seeds=3),
            'min_l2': gradients('min-l2', '12.5', f'--method min_l2 --beta {MIN_L2_BETA:g}'),
            'grad_at': gradients('gradient AT', '12.1', '--teacher_id @nin_wide --method grad_at '
                                 f'--beta {GRAD_AT_BETA:g}'),
            'kd': gradients('KD', '12.1', '--teacher_id @nin_wide --alpha 0.9'),
            'symmetry': gradients('symmetry norm', '11.8',
                                  f'--method symmetry --beta {SYMMETRY_BETA:g}'),
            'at': gradients('activation AT', '11.2', '--teacher_id @nin_wide_bn --beta 1e+3'),
        }),
}


def split(name):
    """'cifar10-10epochs' -> 'cifar10', 10; 'cifar10' -> 'cifar10', None."""
    table, epochs = re.fullmatch(r'(.+?)(?:-([1-9]\d*)epochs)?', name, re.S).groups()
    if table not in TABLES:
        raise InputError(f'there is no table {name}; name one of {", ".join(TABLES)}')
    return table, epochs and int(epochs)


def rows_of(name):
    return TABLES[split(name)[0]]['rows']


def home(name, row):
    """The table, in the schedule of the table `name`, and the row that `row` stands for there."""
    if '/' not in row:
        return name, row
    table, row = row.split('/')
    epochs = split(name)[1]
    return (f'{table}-{epochs}epochs' if epochs else table), row


def title(name):
    table, epochs = split(name)
    table = TABLES[table]
    return table['title'] + (f', in {epochs} epochs instead of {table["epochs"]}' if epochs else '')


# ---- the commands -------------------------------------------------------------------------------

def folder_of(name, row, seed, root):
    return str(pathlib.Path(root, *home(name, row), f'seed{seed}'))


def command(name, row, seed, root):
    """The command line of a run, as a list of words."""
    save = folder_of(name, row, seed, root)
    name, row = home(name, row)
    table, epochs = split(name)
    table = TABLES[table]
    short = f"--epochs {epochs} --epoch_step '[0.3,0.6,0.8]'" if epochs else ''
    options = shlex.split(f'{table["rows"][row]["options"]} {table["common"]} {short}')
    return ['cifar.py', '--save', save,
            *(folder_of(name, word[1:], seed, root) if word.startswith('@') else word
              for word in options), '--seed', str(seed)]


def with_teachers(name, row):
    """A row behind the rows that its options name, as (table, row)."""
    name, row = home(name, row)
    for teacher in re.findall(r'@(\S+)', rows_of(name)[row]['options']):
        yield from with_teachers(name, teacher)
    yield name, row


def commands(name, root, seeds=None, only=''):
    """The command line of each run of a table, or of one row, with the teachers that it needs, as
    lists of words: seed by seed, teachers first."""
    rows, short, known = rows_of(name), split(name)[1], set()
    if only and only not in rows:
        raise InputError(f'{name} has no row {only}; its rows are {", ".join(rows)}')
    numbers = {k: seeds or min(r['seeds'], SHORT_SEEDS if short else r['seeds'])
               for k, r in rows.items() if only in ('', k)}
    for seed in range(max(numbers.values())):
        for wanted in (k for k, n in numbers.items() if seed < n):
            for place in with_teachers(name, wanted):
                if (place, seed) not in known:
                    known.add((place, seed))
                    yield command(*place, seed, root)


def save_of(words):
    return words[words.index('--save') + 1]


def comparable(command):
    """The words of a command line. The first logs of AT+KD are older than --beta_decay: they were
    made with a constant β and do not say so."""
    return shlex.split(command.replace(' --beta_decay constant', ''))


# ---- running ------------------------------------------------------------------------------------

def locked(folder):
    """Whether a process is at work on the folder of a run."""
    if not pathlib.Path(folder, 'lock').exists():
        return False    # and make no folder to find that out
    try:
        with runs.lock(folder):
            return False
    except InputError:
        return True


def done(words):
    """Whether the log says that this very command has finished. Of other cases its process says
    what is to be said."""
    log, model = (pathlib.Path(save_of(words), name) for name in ('log.txt', 'model.pt7'))
    try:
        lines = runs.read_log(log)
        # the log is written before the checkpoint: cut off between the two, an epoch is missing
        whole = not model.exists() or model.stat().st_mtime >= log.stat().st_mtime
    except (InputError, FileNotFoundError):
        return False
    return whole and is_finished(lines) and comparable(lines[0].get('command', '')) == \
        comparable(shlex.join(words))


def attempt(words, waiting, failed):
    """Run a command unless there is no need or no way -> whether it needs no further attempt.

    waiting: the folders of the runs that are left for later; failed: {folder: what is said of it}
    of the runs that failed, to which this one may be added."""
    folder = save_of(words)
    if failed.keys() & set(words):
        failed[folder] = f'(its teacher failed) {shlex.join(words)}'
    elif waiting & set(words) or locked(folder):
        return False
    elif done(words):
        print(f'{folder} is finished', flush=True)
    else:
        print('$ python', shlex.join(words), flush=True)
        script = README.with_name(words[0])
        status = subprocess.run([sys.executable, script, *words[1:]]).returncode
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status == 2 and (locked(folder) or done(words)):     # another process was faster
            return False
        if status:
            failed[folder] = shlex.join(words)
    return True


def run(name, root, seeds=None, only=''):
    """Run what is not finished of a table, one after another; what another process is running is
    waited for. A failed run is named at the end and stops no other, but for its students."""
    left, failed, said = list(commands(name, root, seeds, only)), {}, None
    while left:
        later = []
        for words in left:
            if not attempt(words, {save_of(w) for w in later}, failed):
                later.append(words)
        if later == left:
            if said != left:
                print('waiting for other processes:', ', '.join(map(save_of, left)), flush=True)
            said = left
            time.sleep(WAIT)
        left = later
    show(name, root)
    if failed:
        raise training.RunError('failed: ' + '; '.join(failed.values()))


# ---- the numbers --------------------------------------------------------------------------------

def is_finished(lines):
    return len(lines) > 1 and lines[-1]['epoch'] == lines[-1]['epochs']


def finished(folder):
    """The logs of the finished runs below a row's folder, by seed."""
    logs = {int(path.parent.name[4:]): runs.read_log(path)
            for path in folder.glob('seed*/log.txt') if path.parent.name[4:].isdecimal()}
    return {seed: logs[seed] for seed in sorted(logs) if is_finished(logs[seed])}


def logs_of(name, root):
    """The finished logs of a table, {row: {seed: lines}}; in a short schedule, in which the whole
    of a table is seldom run, only the rows that have any."""
    logs = {row: finished(pathlib.Path(root, *home(name, row))) for row in rows_of(name)}
    return {row: z for row, z in logs.items() if z or not split(name)[1]}


def errors_of(logs):
    return {seed: 100 - z[-1]['test_acc'] for seed, z in logs.items()}


def mean_and_spread(values, sign='', divisor=1):
    text = f'{statistics.mean(values):{sign}.2f}'
    return text + (f' ± {statistics.stdev(values) / divisor:.2f}' if len(values) > 1 else '')


def difference(errors, plain):
    """Of a row's errors to the plain student's, both {seed: error}, as text; over the seeds that
    both have, whose number is given if it is not the row's."""
    common = [error - plain[seed] for seed, error in errors.items() if seed in plain]
    text = mean_and_spread(common, '+', len(common) ** .5) if common else ''
    return text + (f' (n = {len(common)})' if 0 < len(common) < len(errors) else '')


def seconds(logs):
    return statistics.mean(len(z[1:]) * statistics.median(e['train_time'] + e['test_time']
                                                          for e in z[1:]) for z in logs)


def cells(name, row, logs):
    """A row of a table as {column: text}."""
    table, short = split(name)
    table = TABLES[table]
    r = table['rows'][row]
    paper = f'paper, {table["epochs"]} epochs' if short else 'paper'
    z = {'test error, %': r['label'], paper: r['paper'], 'ours': '', 'median': '',
         'to the plain student': '', 'n': str(len(logs[row])), 'seconds a run': ''}
    if logs[row]:
        errors, plain = errors_of(logs[row]), errors_of(logs.get(r['plain'], {}))
        z |= {'ours': mean_and_spread(list(errors.values())),
              'to the plain student': difference(errors, plain),
              'seconds a run': f'{seconds(logs[row].values()):.0f}'}
        if table['medians'] and not short:
            z['median'] = f'{statistics.median(errors.values()):.2f}'
    return z


def grid(name, logs):
    """The cells of a table, the head first, without the columns that are empty."""
    rows = [cells(name, row, logs) for row in logs]
    columns = [k for k in (rows[0] if rows else []) if any(z[k] for z in rows)]
    return [columns, *([z[k] for k in columns] for z in rows)]


def note(name, logs):
    """What the rows share: schedules, machines, precisions; with numbers of runs where they differ.
    """
    lines = [z for by_seed in logs.values() for z in by_seed.values()]
    if not lines:
        return 'No run is finished yet.'
    texts = [(f'{z[-1]["epochs"]} epochs, drops at {z[-1]["epoch_step"]}',
              f'{z[0]["device"]}, torch {z[0]["torch"]}',
              f'{z[0]["dtype"]}, threads: {z[0]["threads"]}') for z in lines]
    counts = [collections.Counter(column) for column in zip(*texts, strict=True)]
    said = ['; '.join(f'{k} ({n[k]} of {len(lines)} runs)' if len(n) > 1 else k for k in sorted(n))
            for n in counts]
    missing = len(rows_of(name)) - len(logs)
    if missing:
        said.append(f'Rows without a finished run, not shown: {missing}')
    return '. '.join(said) + '.'


def table_lines(name, root, base=pathlib.Path()):
    """The lines of a table in Markdown, from the logs below base/root."""
    logs = logs_of(name, base / root)
    head, *rows = grid(name, logs)
    for row, texts in zip(logs, rows, strict=True):
        if logs[row]:
            texts[0] = f'[{texts[0]}]({pathlib.Path(root, *home(name, row)).as_posix()})'
    lines = [f'| {" | ".join(texts)} |' for texts in (head, ['---'] * len(head), *rows)]
    return [*(lines if rows else []), '', note(name, logs)]


def show(name, root):
    """Print a table with aligned columns; draw the first seeds' learning curves."""
    logs = logs_of(name, root)
    rows = grid(name, logs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(title(name))
    for texts in rows:
        print('  '.join(c.ljust(w) for c, w in zip(texts, widths, strict=True)).rstrip())
    print(note(name, logs))
    curves = {rows_of(name)[row]['label']:
              pathlib.Path(folder_of(name, row, min(z), root), 'log.txt')
              for row, z in logs.items() if z}
    if curves:
        path = pathlib.Path(root, name, 'curves.png')
        runs.plot_curves(curves, path)
        print(f'curves: {path}')


def report(readme):
    """The README's text with the block of each table that it has a place for made anew."""
    def block(match):
        name = match[1]
        return '\n'.join([f'<!-- table {name} -->', f'**{title(name)}**', '',
                          *table_lines(name, 'results', README.parent), '',
                          '<!-- end of table -->'])

    return re.sub(r'(?s)<!-- table (\S+) -->.*?<!-- end of table -->', block, readme)


def main(argv=None):
    parser = training.make_parser(__doc__)
    parser.add_argument('what', choices=['commands', 'run', 'show', 'report'])
    parser.add_argument('table', nargs='?', help=f'{", ".join(TABLES)}; all but report need it')
    parser.add_argument('--root', default='results',
                        help='folder of the runs; report always takes results')
    parser.add_argument('--epochs', type=int, metavar='N', help="the table in a schedule of N "
                        "epochs instead of the paper's")
    parser.add_argument('--seeds', type=int, metavar='N',
                        help="run seeds 0 to N-1 (default: each row's)")
    parser.add_argument('--only', default='', metavar='ROW',
                        help='run this row alone, with the teachers that it needs')
    opt = parser.parse_args(argv)
    for flag in ('epochs', 'seeds'):
        if getattr(opt, flag) is not None and getattr(opt, flag) < 1:
            raise InputError(f'--{flag} is {getattr(opt, flag)}: give 1 or more')
    if opt.what == 'report':
        README.write_text(report(README.read_text()))
        return
    if not opt.table:
        raise InputError(f'name a table: {", ".join(TABLES)}')
    name = f'{opt.table}-{opt.epochs}epochs' if opt.epochs else opt.table
    split(name)     # an unknown table is said before anything is done
    if opt.what == 'commands':
        for words in commands(name, opt.root, opt.seeds, opt.only):
            print('python', shlex.join(words))
    elif opt.what == 'run':
        run(name, opt.root, opt.seeds, opt.only)
    else:
        show(name, opt.root)


if __name__ == '__main__':
    training.run(main)
