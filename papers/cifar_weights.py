"""CIFAR-10 nets that others trained, tested: whether our nets compute the same as theirs.

  He et al., 'Deep Residual Learning for Image Recognition', https://arxiv.org/abs/1512.03385;
  trained by Y. Idelbayev, https://github.com/akamaster/pytorch_resnet_cifar10
"""
from papers.rows import row, table

README = 'the README of akamaster/pytorch_resnet_cifar10'

TABLES = {
    'cifar10-weights': table(
        'Published ResNets for CIFAR-10, tested on all 10,000 test images',
        script='finetune.py', epochs=0,
        common='--dataset CIFAR10 --pixels torchvision --dtype float',
        rows={f'resnet{depth}': row(f'ResNet-{depth}', error, README,
                                    f'--evaluate cifar10_resnet{depth}', seeds=1)
              for depth, error in ((20, '8.27'), (32, '7.37'), (44, '6.90'), (56, '6.61'))}),
}
