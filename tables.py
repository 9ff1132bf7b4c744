"""The tables of the papers: the command behind each number, and the numbers that its logs hold.

    python tables.py commands TABLE     the shell lines, teachers first
    python tables.py run TABLE          run what is not finished, then show
    python tables.py show TABLE         the table, and its learning curves as curves.png
    python tables.py report             write the tables into the README, from the logs alone

A number comes from the finished runs in ROOT/TABLE/ROW/seed<k>/log.txt: the last epoch's test
error, mean ± standard deviation over seeds. Seconds are those of the median epoch times the epochs.
"""
import pathlib
import re
import shlex
import statistics
import subprocess
import sys

import runs
import training
from utils import InputError

README = pathlib.Path(__file__).with_name('README.md')
SHORT = "--epochs 10 --epoch_step '[0.3,0.6,0.8]'"
TEACHER = '--teacher_id {table}/teacher/seed{seed}'
# Errors in %, from table 1 of the attention transfer paper (200 epochs).
# Checked: 8.77, 7.93 and 6.31 are quoted alike by the Rocket Launching paper (arXiv:1708.04106)
# or stand in the paper's text; the others could not be checked and are marked so.
# table -> title, rows: name -> (label, paper's number, options of cifar.py, number of seeds)
TABLES = {
    'demo': dict(
        title='shapes, drawn by the program: 5,000 training and 1,000 test images of 32x32',
        paper='',
        common="--dataset shapes --batch_size 64 --epochs 8 --epoch_step '[0.6,0.8,0.9]'",
        rows={
            'teacher': ('WRN-16-2, the teacher', '', '--depth 16 --width 2', 1),
            'student': ('WRN-16-1 alone', '', '', 1),
            'at': ('WRN-16-1, AT', '', f'{TEACHER} --beta 1e+3', 1),
            'kd': ('WRN-16-1, KD', '', f'{TEACHER} --alpha 0.9', 1),
            'at_kd': ('WRN-16-1, AT+KD', '', f'{TEACHER} --beta 1e+3 --alpha 0.9', 1),
        }),
    'cifar10-10epochs': dict(
        title='CIFAR-10, WRN-16-2 -> WRN-16-1, in a twentieth of the schedule',
        paper='paper, 200 epochs', common=SHORT,
        rows={
            'teacher': ('WRN-16-2, the teacher', '6.31', '--depth 16 --width 2', 3),
            'student': ('WRN-16-1 alone', '8.77', '', 3),
            'at': ('WRN-16-1, AT', '7.93', f'{TEACHER} --beta 1e+3', 3),
            'kd': ('WRN-16-1, KD', '7.41 (unverified)', f'{TEACHER} --alpha 0.9', 3),
            'at_kd': ('WRN-16-1, AT+KD', '7.51 (unverified)',
                      f'{TEACHER} --beta 1e+3 --alpha 0.9', 3),
            'student_float': ('WRN-16-1 alone, in float instead of bfloat16', '8.77',
                              '--dtype float', 1),
        }),
}


def commands(name, root, seeds=None):
    """The command line of each run of a table, as lists of words: seed by seed, teachers first."""
    table = TABLES[name]
    most = max(n for *_, n in table['rows'].values())
    for seed in range(seeds or most):
        for row, (_, _, options, n) in table['rows'].items():
            if seed >= (seeds or n):
                continue
            options = [word.format(table=f'{root}/{name}', seed=seed)
                       for word in shlex.split(f'{options} {table["common"]}')]
            yield ['cifar.py', '--save', f'{root}/{name}/{row}/seed{seed}', *options,
                   '--seed', str(seed)]


def run(name, root, seeds=None):
    """Run the commands of a table one after another; finished runs say so and are skipped. A
    failed run is named at the end and stops no other, but for its students."""
    failed, folders = [], set()
    for words in commands(name, root, seeds):
        print('$ python', shlex.join(words), flush=True)
        if folders & set(words):
            failed.append(f'(its teacher failed) {shlex.join(words)}')
            continue
        status = subprocess.run([sys.executable, README.with_name(words[0]), *words[1:]]).returncode
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status:
            failed.append(shlex.join(words))
            folders.add(words[words.index('--save') + 1])
    show(name, root)
    if failed:
        raise training.RunError('failed: ' + '; '.join(failed))


def finished(folder):
    """The logs of the finished runs below a row's folder, by path."""
    logs = {path: runs.read_log(path) for path in sorted(folder.glob('seed*/log.txt'))}
    return {path: z for path, z in logs.items() if len(z) > 1 and z[-1]['epoch'] == z[-1]['epochs']}


def summary(logs):
    """(ours, n, schedule, seconds, machine) of a row from its finished logs, as texts."""
    errors = [100 - z[-1]['test_acc'] for z in logs]
    ours = f'{statistics.mean(errors):.2f}'
    if len(errors) > 1:
        ours += f' ± {statistics.stdev(errors):.2f}'
    seconds = statistics.mean(len(z[1:]) * statistics.median(e['train_time'] + e['test_time']
                                                             for e in z[1:]) for z in logs)
    schedules = {f'{z[-1]["epochs"]} epochs, drops at {z[-1]["epoch_step"]}' for z in logs}
    machines = {f'{z[0]["device"]}; {z[0]["dtype"]}, threads: {z[0]["threads"]}, '
                f'torch {z[0]["torch"]}' for z in logs}
    return (ours, str(len(errors)), '; '.join(sorted(schedules)), f'{seconds:.0f}',
            '; '.join(sorted(machines)))


def table_lines(name, root, base=pathlib.Path()):
    """The lines of a table in Markdown, from the logs below base/root."""
    table = TABLES[name]
    head = ['test error, %', *([table['paper']] if table['paper'] else []), 'ours', 'n', 'schedule',
            'seconds a run', 'machine']
    lines = [f'| {" | ".join(head)} |', '|' + ' --- |' * len(head)]
    for row, (label, paper, *_) in table['rows'].items():
        logs = finished(base / root / name / row)
        link = f'[{label}]({root}/{name}/{row})' if logs else label
        cells = [link, *([paper] if table['paper'] else []),
                 *(summary(list(logs.values())) if logs else ['', '0', '', '', ''])]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def show(name, root):
    """Print a table with aligned columns; draw the first seeds' learning curves."""
    rows = [[re.sub(r'\[(.*)\]\(.*\)', r'\1', c.strip()) for c in line.split('|')[1:-1]]
            for line in table_lines(name, root) if '---' not in line]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(TABLES[name]['title'])
    for cells in rows:
        print('  '.join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())
    folder = pathlib.Path(root, name)
    logs = {label: log for row, (label, *_) in TABLES[name]['rows'].items()
            for log in list(finished(folder / row))[:1]}
    if logs:
        runs.plot_curves(logs, folder / 'curves.png')
        print(f'curves: {folder}/curves.png')


def report(readme):
    """The README's text with the block of each table that it has a place for made anew."""
    def block(match):
        name = match[1]
        if name not in TABLES:
            raise InputError(f'README.md has a place for the table {name}, which is not here')
        lines = table_lines(name, 'results', README.parent)
        return '\n'.join([f'<!-- table {name} -->', f'**{TABLES[name]["title"]}**', '', *lines,
                          '', '<!-- end of table -->'])

    return re.sub(r'(?s)<!-- table (\S+) -->.*?<!-- end of table -->', block, readme)


def main(argv=None):
    parser = training.make_parser(__doc__)
    parser.add_argument('what', choices=['commands', 'run', 'show', 'report'])
    parser.add_argument('table', nargs='?', choices=TABLES, help='all but report need it')
    parser.add_argument('--root', default='results',
                        help='folder of the runs; report always takes results')
    parser.add_argument('--seeds', type=int, help="run seeds 0 to N-1 (default: each row's)")
    opt = parser.parse_args(argv)
    if opt.what == 'report':
        README.write_text(report(README.read_text()))
        return
    if not opt.table:
        raise InputError(f'name a table: {", ".join(TABLES)}')
    if opt.what == 'commands':
        for words in commands(opt.table, opt.root, opt.seeds):
            print('python', shlex.join(words))
    elif opt.what == 'run':
        run(opt.table, opt.root, opt.seeds)
    else:
        show(opt.table, opt.root)


if __name__ == '__main__':
    training.run(main)
