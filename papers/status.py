"""What the README's status table shows; `papers.pages` writes it. Tables that are only grids of
settings are not in it.
"""

# heading -> {table: (what it is, the rows that may represent it)}
STATUS = {
    'Tables of the papers': {
        'cifar10': ('AT, table 1: CIFAR-10', ['at', 'kd', 'student']),
        'cifar10-maps': ('AT, table 2: attention maps', ['max']),
        'cifar10-groups': ('AT, one group at a time', ['group2']),
        'cifar10-gradients': ('AT, table 3: gradients', ['grad_at', 'min_l2']),
        'cub-scenes': ('AT, table 4: CUB and Scenes', ['cub_at']),
        'imagenet': ('AT, table 5: ImageNet, top-1 and top-5', ['at_from_60']),
        'cifar100': ('KD and AT: CIFAR-100, nine nets', ['wrn_16_2_at_wrn_40_2']),
        'finetuning': ('L2-SP and DELTA: six data sets', ['dogs_delta']),
        'afa': ('AFA, table 3: five data sets', ['resnet101_dogs_act']),
        'afa-ablations': ('AFA, tables 4, 5 and 7 to 10: its parts', ['resnet101_dogs_ast']),
        'afds': ('AFDS: six data sets', ['dogs_afds_10x']),
        'office31-alexnet': ('DDC and DAN: Office-31, AlexNet', ['amazon_webcam_dan']),
        'office31-resnet50': ('DDC and DAN: Office-31, ResNet-50', ['amazon_webcam_dan']),
    },
    'Fine-tuning without ImageNet weights': {
        'transfer': ('L2-SP, DELTA, AFD, AFA: CIFAR-100 to CIFAR-10', ['wrn_50_delta']),
        'transfer-pruned': ('AFDS: CIFAR-100 to CIFAR-10', ['wrn_50_afds_4x']),
        'transfer-resnet20': ('L2-SP, DELTA, AFD, AFA: CIFAR-10 to CIFAR-100', ['delta']),
        'transfer-shapes': ('all methods: shapes to noisier shapes', ['delta']),
    },
    'Small experiments': {
        'demo': ('AT: shapes, synthetic images', ['at']),
        'cifar10-weights': ('published ResNets for CIFAR-10, tested', ['resnet56']),
        'imagenette': ('AT: ten classes of ImageNet, 96x96, top-1', ['at']),
        'imagenette-mobilenet': ('restoring batch normalisation: ten classes of ImageNet, top-1',
                                 ['restored']),
        'shapes-pruned': ('AFS: shapes, synthetic images', ['afs']),
        'amazon10': ('L2-SP, DELTA, AFD, AFA: 310 images of amazon', ['delta']),
        'amazon10-pruned': ('AFDS: 310 images of amazon', ['afds_4x']),
        'office31-mobilenet': ('DAN: Office-31', ['amazon_webcam_dan']),
        'office31-parts': ('parts of a recipe for Office-31', ['head']),
    },
}
# what is missing for the tables that have no runs yet
NEEDS = {
    **dict.fromkeys(('cifar10-groups', 'cifar100', 'transfer', 'transfer-pruned'), 'GPU time'),
    **dict.fromkeys(('cub-scenes', 'finetuning', 'afa', 'afa-ablations', 'afds'),
                    'the data sets and pretrained weights'),
    **dict.fromkeys(('office31-alexnet', 'office31-resnet50'), 'pretrained weights'),
    'imagenet': 'ImageNet',
}
