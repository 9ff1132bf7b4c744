"""Tables on Imagenette, ten classes of ImageNet: attention transfer; a given MobileNetV2."""
from papers.rows import choice, row

IMAGENETTE = ('--imagenetpath imagenette --size 96 --batch_size 32 --nthread 2 '
              '--epoch_step [0.6,0.9]')
IMAGENETTE_LR = {34: .01, 18: .005}     # chosen in the table imagenette-choices
# Their places among ImageNet's classes, in the order of the folders' names.
IMAGENETTE_CLASSES = '[0,217,482,491,497,566,569,571,574,701]'

TABLES = {
    'imagenette-choices': dict(
        title='Ten classes of ImageNet: learning rates, chosen on 400 held-out images of 2,000',
        measure='held-out error, %', script='imagenet.py', epochs=6, medians=False,
        common=f'{IMAGENETTE} --epochs 6 --validate 400',
        rows={f'{depth}_{lr:g}': choice(f'ResNet-{depth}, learning rate {lr:g}',
                                        f'--depth {depth} --lr {lr:g}')
              for depth, rates in ((34, (.05, .02, .01, .005)), (18, (.05, .02, .01, .005, .002)))
              for lr in rates}),
    'imagenette': dict(
        title='Ten classes of ImageNet: 2,000 training and 500 test images of Imagenette, 96x96',
        measure='top-1 error, %', script='imagenet.py', epochs=12, medians=False,
        common=f'{IMAGENETTE} --epochs 12',
        rows={
            'teacher': row('ResNet-34, the teacher', options=f'--depth 34 --lr {IMAGENETTE_LR[34]}',
                           seeds=3),
            'student': row('ResNet-18 alone', options=f'--lr {IMAGENETTE_LR[18]}', seeds=3),
            'at': row('ResNet-18, AT', options=f'--lr {IMAGENETTE_LR[18]} --teacher_params '
                      '@teacher --beta 1e+3', plain='student', seeds=3),
        }),
    'imagenette-mobilenet': dict(   # no epochs: the nets are given
        title='A given MobileNetV2 on ten classes of ImageNet: 500 test images at 224x224',
        measure='top-1 error, %', script='imagenet.py', epochs=0, medians=False,
        common="--imagenetpath imagenette --evaluate mobilenet_v2_imagenet.pth --pixels tensorflow "
               f"--classes '{IMAGENETTE_CLASSES}' --dtype float",
        rows={
            'given': row('as given, batch normalisation folded', seeds=1),
            'restored': row('with batch normalisation restored', options='--restore_bn 512',
                            seeds=1),
        }),
}
