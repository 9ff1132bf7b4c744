"""Losses between a student and its teacher, and of gradients: each a function of a `losses.Batch`.

  Zagoruyko & Komodakis, 'Paying More Attention to Attention', https://arxiv.org/abs/1612.03928
  Hinton et al., 'Distilling the Knowledge in a Neural Network', https://arxiv.org/abs/1503.02531
"""
import torch
import torch.nn.functional as F

import utils


def attention(batch):
    """Return AT's loss (Eq. 2) for each of the groups that --at_groups names."""
    opt, student, teacher = batch.opt, batch.student.groups, batch.teacher.groups
    return [utils.at_loss(student[i], teacher[i], opt.at_map, opt.at_mode) for i in opt.at_groups]


def activations(batch):
    """Return F-ActT's loss (table 1), of full activations, for each of the groups. The student's go
    through the 1x1 convolution 'regressor.group<i>', if there is one."""
    def regress(x, key):
        return F.conv2d(x, batch.params[key]) if key in batch.params else x

    return [utils.activation_loss(regress(batch.student.groups[i], f'regressor.group{i}'),
                                  batch.teacher.groups[i]) for i in batch.opt.at_groups]


def soft_targets(batch):
    """Return KD's loss: T² KL - CE. CE plus alpha times this is alpha T² KL + (1 - alpha) CE."""
    kd = utils.distillation(batch.student.logits, batch.teacher.logits, batch.labels,
                            batch.opt.temperature, 1.)
    return [kd - F.cross_entropy(batch.student.logits, batch.labels)]


# ---- gradients with respect to the input --------------------------------------------------------

def gradient(logits, inputs, labels, create_graph=True):
    """Compute J of Eq. 3, the gradient of each image's own cross-entropy -> (B, 3, H, W). (Batch
    normalisation in training mode ties the images together.)"""
    loss = F.cross_entropy(logits, labels, reduction='sum')
    return torch.autograd.grad(loss, inputs, create_graph=create_graph)[0]


def gradient_attention(batch):
    """Return the loss of gradient-based AT, Eq. 4."""
    student, teacher = (gradient(outputs.logits, batch.inputs, batch.labels, create_graph=learns)
                        for outputs, learns in ((batch.student, True), (batch.teacher, False)))
    return [utils.gradient_loss(student, teacher)]


def gradient_penalty(batch):
    """Return the loss of min-l2 (table 3), a penalty on the norm of the gradient."""
    return [utils.gradient_loss(gradient(batch.student.logits, batch.inputs, batch.labels))]


def symmetry_norm(batch):
    """Return the symmetry norm (Eq. 6), the change of the gradient when the image is mirrored. The
    running statistics of batch normalisation, if there is any, count the mirrored images too."""
    mirrored = batch.inputs.detach().flip(3).requires_grad_()
    logits, _ = batch.net(mirrored, batch.params, True, 'student.')
    j = gradient(utils.at_least_float(logits), mirrored, batch.labels)
    return [utils.gradient_loss(gradient(batch.student.logits, batch.inputs, batch.labels),
                                j.flip(3))]
