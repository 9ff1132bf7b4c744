"""The training step as szagoruyko/attention-transfer does it, image by image and in float: what
bench.py compares ours with."""
import random
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchnet.meter import AverageValueMeter, ClassErrorMeter

from data import arrays, decoded

PAD = 4     # pixels around an image of CIFAR

# ---- images -------------------------------------------------------------------------------------

def normalised(image, mean, std):
    """Normalise an image, uint8 (H, W, 3) -> float (3, H, W)."""
    x = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def augment(image, top, left, flip):
    """Pad an image of CIFAR, uint8 (H, W, 3), crop it, mirror it if `flip`, and normalise it ->
    float (3, H, W)."""
    x = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode='reflect')
    x = x[top:top + image.shape[0], left:left + image.shape[1]]
    return normalised(x[:, ::-1] if flip else x, *arrays.PIXELS['cifar'])


def augment_all(samples):
    """Collate samples (image, label) of a DataLoader, each image augmented at random."""
    draw = random.randrange
    return default_collate([(augment(x, draw(2 * PAD + 1), draw(2 * PAD + 1), draw(2)), y)
                            for x, y in samples])


def images(images, labels, batch_size, nthread, device):
    """Make `arrays.Images` of uint8 images (N, H, W, 3) and labels (N,), augmented in workers."""
    warnings.filterwarnings('ignore', 'This DataLoader will create')   # as many as asked for
    loader = DataLoader(list(zip(images, labels, strict=True)), batch_size, shuffle=True,
                        num_workers=nthread, collate_fn=augment_all,
                        pin_memory=device.type == 'cuda',
                        multiprocessing_context='fork' if nthread else None)
    return arrays.Images(len(images), lambda generator: ((len(y), x, y) for x, y in loader),
                         lambda size, x, y: (x.to(device), y.to(device)), [])


def pil_crop(path, size, seed):
    """Crop and mirror the image in a file at random, as torchvision's RandomResizedCrop and
    RandomHorizontalFlip do -> uint8 (size, size, 3)."""
    image, rng = Image.open(path).convert('RGB'), np.random.default_rng(seed)
    top, left, h, w = decoded.random_box(rng, image.height, image.width)
    image = image.crop((left, top, left + w, top + h)).resize((size, size), Image.BILINEAR)
    return np.asarray(image.transpose(Image.FLIP_LEFT_RIGHT) if seed % 2 else image)


def pil_input(path, size, mean, std):
    """Read a random `pil_crop` of the image in a file, normalised, float (3, size, size)."""
    return torch.from_numpy(normalised(pil_crop(path, size, random.getrandbits(62)), mean, std))


# ---- a step -------------------------------------------------------------------------------------

def loss(opt, targets, y_s, g_s, y_t=None, g_t=()):
    """Compute the loss of logits (B, K) and groups' outputs of student and teacher, operation by
    operation as published -> (), and the losses of attention transfer."""
    def at(x):
        return F.normalize(x.pow(2).mean(1).view(x.shape[0], -1))

    ce, T = F.cross_entropy(y_s, targets), opt.temperature
    if y_t is None:
        return ce, []
    p, q = F.log_softmax(y_s / T, dim=1), F.softmax(y_t / T, dim=1)
    kd = F.kl_div(p, q, reduction='sum') * T ** 2 / len(targets)
    losses = [(at(g_s[i]) - at(g_t[i])).pow(2).mean() for i in opt.at_groups]
    return opt.alpha * kd + (1 - opt.alpha) * ce + opt.beta * sum(losses), losses


def make_step(opt, student, teacher, batches, device):
    """Make a function of no arguments that trains the student, (f, params), on the next of
    `batches`: inputs (B, 3, H, W) and targets (B,). `teacher`: (f, params), or None."""
    f_s, params = student
    f_t, fixed = teacher or (None, {})
    torch.backends.cudnn.benchmark = True
    params = {k: v.detach().to(device).requires_grad_(v.requires_grad) for k, v in params.items()}
    fixed = {k: v.to(device) for k, v in fixed.items()}
    optimizer = torch.optim.SGD([v for v in params.values() if v.requires_grad], opt.lr,
                                momentum=.9, weight_decay=opt.weight_decay)
    errors, meters = ClassErrorMeter(accuracy=True), [AverageValueMeter() for _ in range(4)]

    def train():
        inputs, targets = next(batches)
        optimizer.zero_grad()
        y, groups = f_s(inputs, params, True)
        with torch.no_grad():
            by = f_t(inputs, fixed, False) if f_t else ()
        total, parts = loss(opt, targets, y, groups, *by)
        total.backward()
        errors.add(y.detach().cpu(), targets.cpu())
        for meter, value in zip(meters, (total, *parts), strict=False):
            meter.add(value.item())
        optimizer.step()

    return train
