"""Tables on Imagenette, ten classes of ImageNet: attention transfer; a pretrained MobileNetV2."""
from papers.rows import choices, row, table

IMAGENETTE = ('--imagenetpath imagenette --size 96 --batch_size 32 --nthread 2 '
              '--epoch_step [0.6,0.9]')
RATES = (.05, .02, .01, .005)
IMAGENETTE_LR = {34: .01, 18: .005}     # chosen in the table imagenette-choices
# Imagenette's classes as indices into ImageNet's, in the order of the folder names
IMAGENETTE_CLASSES = '[0,217,482,491,497,566,569,571,574,701]'

TABLES = {
    'imagenette-choices': table(
        'Ten classes of ImageNet: learning rates, chosen on 400 held-out images of 2,000',
        measure='held-out error, %', script='imagenet.py', epochs=6,
        common=f'{IMAGENETTE} --epochs 6 --validate 400',
        rows={**choices('34', 'ResNet-34, learning rate', '--depth 34 --lr', RATES),
              **choices('18', 'ResNet-18, learning rate', '--depth 18 --lr', (*RATES, .002))}),
    'imagenette': table(
        'Ten classes of ImageNet: 2,000 training and 500 test images of Imagenette, 96x96',
        measure='top-1 error, %', script='imagenet.py', epochs=12,
        common=f'{IMAGENETTE} --epochs 12',
        rows={
            'teacher': row('ResNet-34, the teacher', options=f'--depth 34 --lr {IMAGENETTE_LR[34]}',
                           seeds=3),
            'student': row('ResNet-18 alone', options=f'--lr {IMAGENETTE_LR[18]}', seeds=3),
            'at': row('ResNet-18, AT', options=f'--lr {IMAGENETTE_LR[18]} --teacher_params '
                      '@teacher --beta 1e+3', plain='student', seeds=3),
        }),
    'imagenette-mobilenet': table(
        'A pretrained MobileNetV2, tested on ten classes of ImageNet: 500 images at 224x224',
        measure='top-1 error, %', script='imagenet.py', epochs=0,
        common="--imagenetpath imagenette --evaluate mobilenet_v2_imagenet.pth --pixels tensorflow "
               f"--classes '{IMAGENETTE_CLASSES}' --dtype float",
        rows={
            'given': row('batch normalisation folded, as in the file', seeds=1),
            'restored': row('batch normalisation restored', options='--restore_bn 512', seeds=1),
        }),
}
