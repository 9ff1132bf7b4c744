"""Tables and their rows, as data: the modules beside this one hold them, `catalogue` joins them.

All numbers are errors in %, each with its source.
"""
import re


def table(title, rows, *, epochs, common='', script='cifar.py', medians=False,
          measure='test error, %', value='test_acc', top5=False, against='vs. the plain student',
          pruned=False):
    """Make a table, a dict of these entries:

    rows: {name: row}, teachers first; TABLE/ROW is a row of another table under another label.
    epochs: of the paper's schedule; None if they depend on the data set. common: options that all
    rows have. medians: whether the paper's numbers are medians of five runs. measure: what is
    tabulated, in words; value: the accuracy in the log that it comes from. top5: whether to add
    the top-5 error. against: heading of the differences from the rows `plain`. pruned: whether to
    tabulate multiply-adds."""
    return dict(title=title, rows=rows, epochs=epochs, common=common, script=script,
                medians=medians, measure=measure, value=value, top5=top5, against=against,
                pruned=pruned)


def row(label, paper='', source='', options='', plain='', seeds=5, others=''):
    """Make a row: the paper's error in % and its source; the script's options, in which @ROW stands
    for the run of that row with the same seed; the row to compare it with; the number of seeds; the
    errors that others reached, as a range or by name."""
    return dict(label=label, paper=paper, source=source, options=options, plain=plain,
                seeds=seeds, others=others)


def choice(label, options, plain=''):
    """Make a row of a grid of settings: one seed, no published number."""
    return row(label, options=options, plain=plain, seeds=1)


def choices(name, label, options, values, plain=''):
    """Make the rows {name: row} of a grid: each value ends the row's name, label and options."""
    return {f'{name}_{v:g}': choice(f'{label} {v:g}', f'{options} {v:g}', plain) for v in values}


def joined(parts):
    """Join parts of a table, each {name: row}."""
    return {name: r for part in parts for name, r in part.items()}


def part_of_table(name, label, options, rows):
    """Make the rows {name: row} a part of a larger table, such as those of one data set: `name` is
    put before their names, `label` before their labels, `options` before their options."""
    def placed(r):
        own = re.sub(r'@(\S+)', lambda m: f'@{name}_{m[1]}' if m[1] in rows else m[0], r['options'])
        return dict(r, label=f'{label}: {r["label"]}', options=f'{options} {own}',
                    plain=r['plain'] and f'{name}_{r["plain"]}')

    return {f'{name}_{k}': placed(r) for k, r in rows.items()}


def error_of(accuracy):
    """Turn an accuracy into an error, % as text: '88.7±0.1' -> '11.3 ± 0.1', '75.61' -> '24.39'."""
    value, _, spread = accuracy.partition('±')
    digits = len(value.partition('.')[2])
    return f'{100 - float(value):.{digits}f}' + (f' ± {spread}' if spread else '')
