"""The table of `make demo`: teacher, student, AT, KD and both on synthetic images."""
from papers.rows import row, table

# A quarter of the paper's 1e+3: maps of unit norm have a quarter of the positions here, so that the
# mean squared difference is four times as large.
BETA = '--beta 250'
TABLES = {
    'demo': table(
        'shapes, synthetic images: 3,000 for training and 2,000 for testing, 16x16', epochs=16,
        common="--depth 10 --dataset shapes --randomcrop_pad 2 --batch_size 32 --lr 0.05 "
               "--epochs 16 --epoch_step '[0.5,0.75,0.9]'",
        rows={
            'teacher': row('WRN-10-2, the teacher', options='--width 2 --epochs 24', seeds=3),
            'student': row('WRN-10-1 alone', seeds=3),
            **{name: row(f'WRN-10-1, {label}', options=f'--teacher_id @teacher {flags}',
                         plain='student', seeds=3)
               for name, label, flags in (('at', 'AT', BETA), ('kd', 'KD', '--alpha 0.9'),
                                          ('at_kd', 'AT+KD', f'{BETA} --alpha 0.9'))},
        }),
}
