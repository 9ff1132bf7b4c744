"""`shapes`: images that the program draws, ten classes of shapes on textured ground."""
import pathlib

import cv2
import numpy as np

SHAPES_COUNTS = {'train': 3000, 'test': 2000}
SHAPES_SIZE = 16    # pixels: a net of ten layers sees the whole image, and trains in seconds


def regular(n):
    """Return the n corners of a regular polygon on the unit circle, (n, 2)."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


CIRCLE = regular(40)
CRESCENT = np.concatenate([CIRCLE[5:36], CIRCLE[35:4:-1] * [.55, .85] + [.25, 0]])
STAR = regular(10) * ([[1], [.45]] * 5)     # inner corners nearer to the centre
CROSS = np.array([(1, .33), (.33, .33), (.33, 1), (-.33, 1), (-.33, .33), (-1, .33), (-1, -.33),
                  (-.33, -.33), (-.33, -1), (.33, -1), (.33, -.33), (1, -.33)])
ARROW = np.array([(1, 0), (.1, .8), (.1, .3), (-1, .3), (-1, -.3), (.1, -.3), (.1, -.8)])
# name -> outlines, filled by the even-odd rule
SHAPES = {
    'circle': [CIRCLE], 'triangle': [regular(3)], 'square': [regular(4)],
    'pentagon': [regular(5)], 'hexagon': [regular(6)], 'star': [STAR], 'cross': [CROSS],
    'ring': [CIRCLE, CIRCLE * .55], 'crescent': [CRESCENT], 'arrow': [ARROW],
}


def fill(outlines, size, scale=4):
    """Compute how much of each of size x size pixels the outlines cover, from 0 to 1."""
    canvas = np.zeros((size * scale, size * scale), np.uint8)
    points = [np.round((o * scale - .5) * 16).astype(np.int32) for o in outlines]
    cv2.fillPoly(canvas, points, 255, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) / np.float32(255)


def place(outlines, rng, centre, radius):
    """Turn outlines, squeeze them a little, scale them to `radius` and move them to `centre`."""
    turn = rng.uniform(0, 2 * np.pi)
    squeeze = np.array([1, rng.uniform(.8, 1)])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [(o * squeeze) @ rotation.T * radius + centre for o in outlines]


def texture(rng, size, grain, contrast):
    """Draw smooth noise (size, size, 3) around 0; `contrast`: standard deviation in grey levels."""
    noise = rng.normal(0, contrast, (grain, grain, 3)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def draw(rng, label, size):
    """Draw an image, uint8 (size, size, 3), and the mask of its shape, bool (size, size)."""
    ground = rng.uniform(30, 225, 3)
    image = ground + texture(rng, size, int(rng.integers(3, 9)), rng.uniform(5, 30))
    for _ in range(int(rng.integers(1, 6))):        # distractors: small polygons of no class
        blob = [rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2))]
        blob = place(blob, rng, rng.uniform(0, size, 2), size * rng.uniform(.06, .16))
        image += fill(blob, size)[..., None] * (rng.uniform(0, 255, 3) - image)
    radius = size * rng.uniform(.26, .42)
    outlines = place(list(SHAPES.values())[label], rng,
                     rng.uniform(.8 * radius, size - .8 * radius, 2), radius)
    alpha = fill(outlines, size)
    colour = rng.uniform(0, 255, 3)
    colour += (np.sign(127 - ground.mean()) * rng.uniform(50, 90) + ground.mean()
               - colour.mean())     # so much brighter or darker than the ground
    colour = colour + texture(rng, size, int(rng.integers(2, 6)), rng.uniform(5, 20))
    image += alpha[..., None] * (colour - image)
    image += rng.normal(0, rng.uniform(0, 8), image.shape)
    return image.clip(0, 255).astype(np.uint8), alpha > .5


def shapes(n, seed=0, size=SHAPES_SIZE):
    """Draw n images of the ten classes of SHAPES, in turn, with random place, size, rotation and
    colour, on textured ground among distractors -> images uint8 (n, size, size, 3), labels int64
    (n,), masks of the shapes bool (n, size, size). Image i depends on `seed`, i and `size` alone.
    """
    labels = np.arange(n) % len(SHAPES)
    drawn = [draw(np.random.default_rng([seed, i]), label, size) for i, label in enumerate(labels)]
    images, masks = (np.stack(a) for a in zip(*drawn, strict=True))
    return images, labels.astype(np.int64), masks


def shifted(images, shift, seed=0):
    """Move images, uint8 (N, H, W, 3), to another domain, the same way in every run: multiply the
    contrast around grey 127 by 1 - shift, add Gaussian noise of standard deviation 60 shift."""
    x = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    x *= 60 * shift
    x += 127 + (1 - shift) * (images.astype(np.float32) - 127)
    return x.round().clip(0, 255).astype(np.uint8)


def write_shapes(root, counts=SHAPES_COUNTS, size=64):
    """Write `shapes` as JPEG files in ImageNet's layout, root/{train,val}/<shape>/<number>.jpg."""
    for seed, (part, n) in enumerate(zip(('train', 'val'), counts.values(), strict=True)):
        images, labels, _ = shapes(n, seed, size)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = pathlib.Path(root, part, list(SHAPES)[label], f'{i:05}.jpg')
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image[..., ::-1])
