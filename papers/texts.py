"""The texts of the README's status and of the pages in results/; `papers.pages` writes them.

STATUS is the README's status table. TEXTS is the Markdown below the table of each page: what was
run, how its settings were chosen, and what the numbers do not show; NOTES is how several of them
end. Tables that are only grids of settings have a text but no row in STATUS.
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
        'afa-ablations': ('AFA, tables 4, 5, 7, 8 and 10: its parts', ['resnet101_dogs_ast']),
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

CORES = """\
The runs with one thread shared the machine's two cores with each other and with other work, so
*seconds per run* is only a loose upper bound.
"""
IMAGENETTE = """\
The images are a subset of [Imagenette](https://github.com/fastai/imagenette), which has ten classes
of ImageNet; [files.txt](../imagenette/files.txt) lists their official names.
"""
MOBILENET = """\
The net is the pretrained MobileNetV2 of [imagenette-mobilenet](../imagenette-mobilenet/README.md)
with its batch normalisation restored.
"""
SMALL = """\
These are small, short experiments. They cannot be compared with the published numbers, which are
for larger nets, 224x224 pixels and 9,000 or more steps.
"""
OFFICE_IMAGES = """\
The images of webcam and dslr had been downscaled to 256 pixels on the short side; those of amazon
were as published.
"""

TEXTS = {
    'demo': f"""\
These are the runs of `make demo`, which keeps its own in `logs/demo`. Each seed has its own
teacher, trained for 24 epochs; the students are trained for 16. β is 250 instead of the paper's
1e+3: attention maps here have a quarter of the positions that they have for CIFAR's images, and as
each map has unit norm and the loss is a mean over positions, the loss is four times as large.

Settings were chosen with seeds 100 and 101 on 2,000 images of the same kind that are neither
training nor test images. The runs above were the first to use the test images and these seeds.
Seven settings were tried, most of them with one seed and not to the end:

* 32x32 pixels, 3,000 or 2,000 training images, WRN-10-2 and WRN-10-1: errors of 54 and 50 % for the
  plain student, 18 and 22 % for AT; KD was stopped early, at 51 and 55 %;
* 16x16 pixels, 1,000 training images, 48 epochs: 20 % for the teacher, not pursued;
* 16x16 pixels, WRN-16-1: 24 % without a teacher; with one, too slow for five minutes;
* 16x16 pixels, 3,000 training images, 16 epochs for all nets, β = 1e+3: with seed 100 all three
  students with a teacher were better than the plain one; with seed 101 the teacher had 19 %, and AT
  (39 %, not finished) and KD (30 %) were worse than the plain student (29 %);
* the same with β = 250, seed 100: 14 instead of 25 % for AT, 16 instead of 17 % for AT+KD;
* **the same with β = 250 and 24 epochs for the teacher**, seed 101: teacher 6 %, plain student
  29 %, KD 21 %, AT 19 %, AT+KD 12 %.

For each of the three seeds the order from worst to best is plain student, KD, AT, AT+KD. AT+KD is
4.0 ± 1.5 points better than AT, and AT 3.8 ± 0.9 points better than KD (mean ± standard error). As
in the paper, every teacher helps, and AT and KD together are among the best. In the paper, though,
KD is better than AT, by half a point (7.41 and 7.93 % with WRN-16-1 on CIFAR-10).

The plain student's error is large because training is short. What a teacher adds here is mainly a
faster start, and the differences are larger than in the paper, where 200 epochs are enough for
every net.

![Attention maps of the nets of seed 0 over test images](attention.png)

{CORES}
Repeated with both cores free, with the same numbers to the last digit, all 15 runs and the picture
took 2 minutes 59 seconds; the same command once more took 7 seconds.
""",

    'cifar10': """\
The first run with the paper's schedule: the student without a teacher, one seed. Its error lies in
the range that others found. The whole table, in a twentieth of the epochs, is
[cifar10-10epochs](../cifar10-10epochs/README.md).""",

    'cifar10-10epochs': """\
β of F-ActT (10) and the linear decay of β in AT+KD are not in the paper; they were chosen [on
held-out training images](../cifar10-choices/README.md). Each seed has its own teacher.""",

    'cifar10-gradients-5epochs': """\
The learning rate (0.01) and β of min-l2 (0.1) are not in the paper; they were chosen [on held-out
training images](../cifar10-choices/README.md).""",

    'cifar10-choices': """\
Each setting was chosen once, on held-out training images, with one seed per value:

* the learning rate of NIN without batch normalisation, from 0.1 (which diverges in its fifth step),
  0.03, 0.01 and 0.003, after one epoch on 45,000 images: **0.01**;
* β of F-ActT, from 0.1, 1, 10 and 100, after three epochs on 45,000 images: **10**;
* β of min-l2, gradient AT and the symmetry norm, from 0.1, 1 and 10, after one epoch on 20,000
  images, tested on the other 30,000: **0.1** for each. It is the lowest value of the grid, but
  better than training without the loss. Such short training says little about 200 epochs (the
  teacher of gradient AT has a larger error than its students), and the paper's full table may need
  another value;
* the decay of β in AT+KD, from none, linear, cosine and step, after five epochs on 20,000 images,
  tested on the other 30,000: no difference was visible, so **linear**, the simplest.""",

    'imagenette': f"""\
ImageNet itself was not available, so there is no run of table 5 yet (`python tables.py commands
imagenet` prints its commands). Here the paper's nets are trained from scratch on 2,000 images.
{IMAGENETTE}
The learning rates were chosen [on held-out training images](../imagenette-choices/README.md).
Except for these, the image size, the batch size (32) and the short schedule, the settings are the
paper's.

**Attention transfer does harm here.** The first row suggests why: in twelve epochs on 2,000 images
the deeper net learns less than the shallower one, which makes it a bad teacher. This says nothing
about the paper's table 5, where the teacher is the better net.""",

    'imagenette-choices': f"""\
The learning rates of [imagenette](../imagenette/README.md) were chosen once, from values between
0.05 and 0.002, after six epochs on 1,600 images, tested on the other 400, with one seed per value:
**0.01** for ResNet-34, **0.005** for ResNet-18.

{IMAGENETTE}""",

    'cifar10-weights': """\
Y. Idelbayev trained CIFAR-10 ResNets as described by He et al. and [published their
weights](https://github.com/akamaster/pytorch_resnet_cifar10) and errors. Tested here, they give the
same errors to the last digit, so our nets compute what his do. They are tested with the
normalisation that they were trained with, ImageNet's mean and standard deviation. The weights of a
fifth net, ResNet-110, were not available.
""",

    'imagenette-mobilenet': """\
A MobileNetV2 whose batch normalisation is folded into its convolutions, tested on the 500 test
images of [imagenette](../imagenette/README.md) before and after `--restore_bn` restored it (see
[how that works](../../docs/weights.md#restoring-batch-normalisation)).
[weights.txt](weights.txt) describes the file of weights, which is not part of this repository.""",

    'amazon10': f"""\
The nets are fine-tuned on ten images of each of the 31 classes of Office-31's amazon, drawn by the
seed, and tested on its other 2,507 images. {MOBILENET}
{SMALL}
The learning rate and each α were chosen
[on held-out training images](../amazon10-choices/README.md). AFA's second stage continues from the
300 steps of its first.

With three seeds no method can be told from L2: AFD, and AFA after both stages, are 0.3 points
better, DELTA is half a point worse and AFA's first stage alone 0.8 points worse, each with a
standard error of 0.3 to 0.7. In 300 steps on 310 images a small net has little time to forget;
these numbers do not contradict the papers' results after 4,500 and 9,000 steps.

AFD's loss allows its attention to collapse: with one of the three seeds the entropy on the first of
four layers ends at a thousandth of that of uniform attention (with the others at 0.02 and 0.39).
""",

    'amazon10-choices': f"""\
The settings of [amazon10](../amazon10/README.md) were chosen once, on 100 held-out training images,
with one seed per value; the standard error of each number is about five points:

* the learning rate, from 0.01 to 0.0003: **0.001**, used for all methods;
* α of L2-SP, from 1 to 0.001: **0.1**;
* α of DELTA, from 0.64 (which diverges) to 0.00064: **0.064**;
* α of AFD, from 0.1 to 0.001: **0.01**;
* α of AFA's first stage, from 0.09 to 0.0009: **0.009**;
* α of AFA's second stage, from 0.04 to 0.0004, of which the two lower values gave the same error:
  **0.004**.

The grids include the published values of α, but those belong to features of another scale: this
net's batch normalisation, with its scales, had been folded into the convolutions. {MOBILENET}""",

    'transfer-resnet20': """\
The source is the ResNet-20 of [cifar10-weights](../cifar10-weights/README.md). It is fine-tuned on
ten images of each class of CIFAR-100, drawn by the seed, and tested on the 10,000 test images.
Learning rate and α were chosen [on held-out images](../transfer-resnet20-choices/README.md); from
scratch has the rate and the weight decay of cifar.py. Each stage of AFA has half of the steps. AT
and KD learn from a net that was fine-tuned with L2 on the same images.

The source is worth 18 points; what keeps a net near it adds little. With each of the three seeds
the feature map, AFD and AT are better than L2, by 0.4 to 0.6 points on average. L2-SP, DELTA and KD
make no difference. AFA is 0.8 ± 0.6 points worse: its second stage begins with a net that has
learnt for half as long. The features of ten classes are a good start for a hundred others, but not
worth keeping: the best learning rate is ten times the published one for fine-tuning, and most of
the best α are the smallest that were tried. With twice the steps L2 [gains 1.5
points](../transfer-resnet20-choices/README.md) on the held-out images.

The runs took half an hour on one core.""",

    'transfer-resnet20-choices': """\
The settings of [transfer-resnet20](../transfer-resnet20/README.md), chosen on 2,000 held-out
training images with one seed per value; one point is one standard error. Training has 1,000 other
images, ten per class on average:

* the learning rate of L2, from 0.3, 0.1, 0.03 and 0.01: **0.1**, for all methods;
* α of L2-SP, from 0.1, 0.01 and 0.001: **0.001**;
* α of the feature map, from 0.64, 0.064 and 0.0064: **0.064**;
* α of DELTA, from the same: **0.0064**;
* α of AFD, from 0.01 (which diverges), 0.001 and 0.0001 (equal): **0.001**;
* α of AFA's stage one, from 0.01 (which diverges), 0.001 and 0.0001: **0.001**; of stage two, from
  0.015 (which diverges), 0.0015 and 0.00015: **0.00015**;
* α of AT, from 1,000 and 100: **100**; of KD, from 0.9 and 0.5: **0.5**.

Five of these are the smallest values that were tried: the best one may be smaller still, which is
nearer to L2. The published values, for ImageNet nets, are 10 to 1,000 times as large.
""",

    'transfer-shapes': """\
The source, a net trained on `shapes`, is the teacher of the [demo](../demo/README.md) with the same
seed. It is fine-tuned for 300 steps on ten images per class that have more noise and less contrast,
and tested on 2,000 such images. Nothing was tuned: the learning rate and α are the published ones
(for AT, the demo's) and may suit some methods better than others. The shift was weakened once, from
0.7 to 0.3, after the test errors of one seed, which had L2 near chance.

The source is worth 55 points. With each of the three seeds L2-SP, the feature map, DELTA and AFD
are better than L2, by 0.9 to 3.5 points on average. AFA is worse with two of three seeds: with the
published α the loss of its first stage is far larger than the cross-entropy of such a net. A
teacher fine-tuned with L2 on the same images does not help, neither with AT nor with KD. Nets
pruned with AFS or AFDS are as good as those pruned by magnitude, or better by a point or two; three
seeds establish this only for AFDS at half of the multiply-adds. Random pruning is 8 to 12 points
worse.

All 72 runs took 6 minutes on two free cores.""",

    'shapes-pruned': """\
A CIFAR ResNet-14 trained on `shapes` is trained on for nine epochs of 40 steps while it is pruned:
after a third and two thirds of the steps or, with nine phases, before each epoch but the first. All
layers lose the same part of their channels, so the nets have nearly the same widths whatever the
score, and differ only in which channels of a layer they keep.

With both seeds AFS is as good as magnitude, to within half a point, and both are better than random
choice, by 4 to 7 points: gates do choose channels, but no better than the magnitude of filter and
scale. Pruning in eight steps instead of two is 1.6 and 3.3 points worse: training is so short that
too little of it is left after the last step. Lowering the density to 0.5 from phase to phase costs
15 points and more, with three phases and with nine. Two seeds show no smaller differences than
these.

`finetune.py --evaluate RUN --prune afs` prints what each channel is worth: the loss without it. (A
run with `--macs_target 1` still has all of its channels.)""",

    'amazon10-pruned': f"""\
The nets are fine-tuned on the images of [amazon10](../amazon10/README.md), for 600 steps, and
channels are pruned after 200 and 400 of them. At density 1 the gates leave nearly all of the pruned
net's multiply-adds. {MOBILENET}
{SMALL}
The settings were chosen [on held-out training images](../amazon10-pruned-choices/README.md).

Without pruning AFD and AFDS are on average 0.6 points better than L2, and better with each of three
seeds; with half the steps the difference of AFD [was smaller](../amazon10/README.md).

At half of the multiply-adds gates choose channels better than chance and worse than magnitude: the
error of AFS is 2.3 ± 0.4 points above that of magnitude, that of AFDS 1.6 ± 0.4, that of random
pruning 3.5 ± 0.5. At a quarter AFS and AFDS are 1.7 ± 1.1 and 1.2 ± 1.4 points better than
magnitude and random pruning 0.7 ± 0.3 worse; three seeds do not tell these apart. At a tenth AFDS
is better than magnitude with each seed, by 2.8 ± 0.2 points, but so is random pruning, by 2.0 ±
0.8, and with errors of 84 to 87 % no net is of use. Pruning is costly whatever chooses the
channels: 600 steps are too few for the nets to recover. The tenfold reduction for which AFDS was
published is that of ResNet-101, with far longer training; nothing of this was run here.

All layers lose the same part of their channels. An earlier version ranked channels by their score
per multiply-add, over all layers: the first layers of a MobileNetV2 then lost as many channels as
they were allowed to, and errors were 3 to 7 points higher at half of the multiply-adds.""",

    'amazon10-pruned-choices': """\
The settings of [amazon10-pruned](../amazon10-pruned/README.md) were chosen at half of the
multiply-adds, on 100 held-out training images, with one seed per value; five points are within one
standard error:

* the learning rate, from 0.003 and 0.001: **0.001**;
* density and δ_s of AFS, from 1 and 0.5, 1 and 0, 0.8 and 0: **1 and 0**;
* α of AFDS, from 0.01 and 0.001, which gave the same error: **0.001**.

They were first chosen with the earlier ranking of channels that
[amazon10-pruned](../amazon10-pruned/README.md) describes. These runs, with today's, agree.""",

    'office31-mobilenet': f"""\
The nets are fine-tuned on one domain of Office-31 and tested on another, whose labels they do not
see. The two rows of each pair of domains differ only in DAN's loss; all nets have a bottleneck of
256 channels. 100 images of the source domain were held out. {MOBILENET}
{SMALL}
{OFFICE_IMAGES}
The learning rate was chosen [on held-out images of amazon](../office31-choices/README.md).

DAN helps where amazon is the target (by 1.6 and 2.7 points) and costs up to 1.1 points elsewhere.
The mean accuracy over the six pairs is 62.2 % without it and 62.5 % with it, with one seed each.
""",

    'office31-choices': """\
The learning rate of [office31-mobilenet](../office31-mobilenet/README.md) and
[office31-parts](../office31-parts/README.md) was chosen once, from values between 0.03 and 0.0001,
on 500 held-out images of amazon, with one seed per value; the standard error of each number is
about two points: **0.0003**.""",

    'office31-parts': f"""\
This table belongs to [why Office-31 results
differ](../../docs/fine-tuning.md#why-office-31-results-differ). Unlike in
[office31-mobilenet](../office31-mobilenet/README.md), the nets have no bottleneck. {MOBILENET}
{OFFICE_IMAGES}
With one seed and 795 images a test error has a standard error of 1.8 points, so this experiment
shows no difference between crops, with or without augmentation, or with or without decay. Training
the classification head at ten times the learning rate, as in the published recipe, does harm here,
by 3.9 points. That is after 300 steps; the effect after 20,000 was not measured. Choosing the best
epoch on the test images would have made these runs look better by up to 1.5 points.""",
}

# what several texts end with, {note: tables}
OF_CIFAR = ['cifar10', 'cifar10-10epochs', 'cifar10-maps-10epochs', 'cifar10-gradients-5epochs',
            'cifar10-choices']
NOTES = {
    """\
The images are those of CIFAR-10, but not in the order of the published batches; training shuffles
them anyway.""": OF_CIFAR,
    """\
The images are those of CIFAR-100, but not in the order of the published file, from which the same
seed draws others.""": ['transfer-resnet20', 'transfer-resnet20-choices'],
    CORES: [*OF_CIFAR, 'transfer-resnet20', 'transfer-resnet20-choices', 'imagenette',
            'imagenette-choices', 'imagenette-mobilenet', 'amazon10', 'amazon10-choices',
            'amazon10-pruned', 'amazon10-pruned-choices', 'shapes-pruned', 'office31-mobilenet',
            'office31-choices', 'office31-parts']}
