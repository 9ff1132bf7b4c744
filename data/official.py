"""The published facts of fine-tuning's data sets: pages, archives, numbers of images.

  dogs        Khosla et al., 'Novel dataset for fine-grained image categorization', 2011
  cub         Wah et al., 'The Caltech-UCSD Birds-200-2011 dataset', 2011
  mit67       Quattoni & Torralba, 'Recognizing indoor scenes', 2009
  caltech256  Griffin et al., 'Caltech-256 object category dataset', 2007
  food101     Bossard et al., 'Food-101 - mining discriminative components with random forests',
              2014
  office31    Saenko et al., 'Adapting visual category models to new domains', 2010
"""
import pathlib

from data import cifar_sets
from system import downloads
from utils import InputError

OFFICE = ('amazon', 'dslr', 'webcam')
OFFICE_CLASSES = 31
# images for training and for testing, or of a domain; classes
EXPECTED = {
    'dogs': (12000, 8580, 120), 'cub': (5994, 5794, 200), 'mit67': (5360, 1340, 67),
    'caltech256-30': (7710, 5140, 257), 'caltech256-60': (15420, 5140, 257),
    'food101': (75750, 25250, 101), 'office31 amazon': (2817, OFFICE_CLASSES),
    'office31 webcam': (795, OFFICE_CLASSES), 'office31 dslr': (498, OFFICE_CLASSES),
}

STANFORD = 'http://vision.stanford.edu/aditya86/ImageNetDogs'
CALTECH = 'https://data.caltech.edu/records'
PAGES = {
    'dogs': f'{STANFORD}/', 'cub': f'{CALTECH}/65de6-vp158',
    'mit67': 'https://web.mit.edu/torralba/www/indoor.html',
    'caltech256-30': f'{CALTECH}/nyy15-4j048', 'caltech256-60': f'{CALTECH}/nyy15-4j048',
    'food101': 'https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/',
    'office31': 'https://faculty.cc.gatech.edu/~judy/domainadapt/',
    **dict.fromkeys(cifar_sets.CIFAR, 'https://www.cs.toronto.edu/~kriz/cifar.html'),
}
CALTECH256 = (
    f'{CALTECH}/nyy15-4j048/files/256_ObjectCategories.tar',
    '08ff01b03c65566014ae88eb0490dbe4419fc7ac4de726ee1163e39fd809543e',
    '256_ObjectCategories', '001.ak47')
# address, sha256 as TensorFlow Datasets and torchvision publish it, what appears below the root,
# and where else it may lie already
DOWNLOADS = {
    'dogs': [
        (f'{STANFORD}/lists.tar',
         '34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c',
         'train_list.mat', 'lists/train_list.mat'),
        (f'{STANFORD}/images.tar',
         'a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58', 'Images')],
    'cub': [
        (f'{CALTECH}/65de6-vp158/files/CUB_200_2011.tgz',
         '0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081',
         'CUB_200_2011', 'images.txt')],
    'caltech256-30': [CALTECH256], 'caltech256-60': [CALTECH256],
    'food101': [
        ('http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz',
         'd97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4', 'food-101', 'meta')],
}


def remedy(name):
    """Say where to get a data set, at the end of a message about what is wrong with it."""
    if name not in PAGES:
        return 'name the folder that holds it with --dataroot'
    return f'get {name} from {PAGES[name]}{" or with --download" if name in DOWNLOADS else ""}'


def download_set(name, root):
    """Download and unpack what the folder `root`, made if need be, lacks of a data set. InputError,
    if the data set cannot be downloaded, or the folder's parent does not exist."""
    root = pathlib.Path(root).expanduser()
    if not root.parent.is_dir():        # mistyped, perhaps
        raise InputError(f'there is no folder {root.parent}, in which --dataroot {root} could be '
                         f'made')
    if name in cifar_sets.CIFAR:
        cifar_sets.cifar_folder(name, root, make=True)
    elif name not in DOWNLOADS:
        raise InputError(f'there is no --download for {name}: {remedy(name)}')
    for url, sha256, *places in DOWNLOADS.get(name, ()):
        if not any((root / place).exists() for place in places):
            downloads.unpack(downloads.download_file(url, root, sha256), root)
