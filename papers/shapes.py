"""The table of `make demo`: teacher, student, AT, KD and both, on images that are drawn."""
from papers.rows import choice, row

TABLES = {
    'demo': dict(
        title='shapes, drawn by the program: 5,000 training and 1,000 test images of 32x32',
        epochs=8, medians=False,
        common="--dataset shapes --batch_size 64 --epochs 8 --epoch_step '[0.6,0.8,0.9]'",
        rows={
            'teacher': row('WRN-16-2, the teacher', options='--depth 16 --width 2', seeds=1),
            'student': row('WRN-16-1 alone', seeds=1),
            'at': choice('WRN-16-1, AT', '--teacher_id @teacher --beta 1e+3', 'student'),
            'kd': choice('WRN-16-1, KD', '--teacher_id @teacher --alpha 0.9', 'student'),
            'at_kd': choice('WRN-16-1, AT+KD', '--teacher_id @teacher --beta 1e+3 --alpha 0.9',
                            'student'),
        }),
}
