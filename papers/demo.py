"""The table of `make demo`: teacher, student, AT, KD and both, on images that are drawn."""
from papers.rows import row

# a map of unit norm has a quarter of the positions here, so that its mean difference is fourfold
BETA = '--beta 250'
TABLES = {
    'demo': dict(
        title='shapes, drawn by the program: 3,000 training and 2,000 test images of 16x16',
        epochs=16, medians=False,
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
