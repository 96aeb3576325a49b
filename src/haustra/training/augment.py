"""Augmentation for small endoscopic datasets, image by image, on uint8.

A colonoscope has no up, so flips and quarter turns give frames as real as the source. Scale, shift
and mosaics change the place and the size of polyps; pasted polyps change their surroundings. Color,
exposure, blur, noise, compression, specular reflections and text differ between scopes and
hospitals.

All geometry is affine and applied once, to pixels and to boxes alike. All randomness comes from the
sample's own generator, so that the number of workers has no effect.

Shapes: B batch, M boxes, H and W of the image. Coordinates are pixels: a pixel's center is at +0.5.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from haustra.core import effects
from haustra.core.letterbox import PAD_VALUE
from haustra.training.recipe import AugmentStrength
from haustra.warehouse.dataset import Batch

Image = NDArray[np.uint8]
Boxes = NDArray[np.float64]
Window = tuple[int, int, int, int]  # part of an image, x0, y0, x1, y1 in pixels
Affine = NDArray[np.float64]  # map [2,3] of pixel coordinates
Point = NDArray[np.float64]  # x, y in pixels
ReadSample = Callable[[int], tuple[Image, Boxes]]
"""Maps a sample's number to its image [H,W,3] and its boxes [N,4] in pixels."""

BANK_LEVELS = 30.0  # standard deviation of the stored noise, of which four fit into 0..255
GRAY = np.array([0.299, 0.587, 0.114])  # luma weights of RGB (ITU-R BT.601)


def mix_strengths(
    first: AugmentStrength, second: AugmentStrength, *, share: float
) -> AugmentStrength:
    """Return the strength between two, at a share of the second (0..1); ranges are the first's."""
    values = asdict(first)
    for name, end in asdict(second).items():
        if not isinstance(end, tuple):
            values[name] += share * (end - values[name])
    return AugmentStrength(**values)


def _random_affine(
    rng: np.random.Generator,
    *,
    source_center_xy: Point,
    target_center_xy: Point,
    zoom: float,
    stretch: float,
    may_turn: bool,
    angle_deg: float = 0.0,
) -> Affine:
    """Return a random map [2,3] from source to target pixels: flip, quarter turn, zoom, angle."""
    flip = 2 * rng.integers(2, size=2) - 1
    aspect = math.exp(rng.uniform(-stretch, stretch) / 2)
    linear = np.diag(flip * (zoom * aspect, zoom / aspect))
    if rng.random() < 0.5 and may_turn:
        linear = linear[::-1]
    if angle_deg:
        linear = cv2.getRotationMatrix2D((0, 0), -angle_deg, 1)[:, :2] @ linear
    (a, b), (c, d) = linear.tolist()
    (x, y), (target_x, target_y) = source_center_xy, target_center_xy
    return np.array([[a, b, target_x - a * x - b * y], [c, d, target_y - c * x - d * y]])


def _warp(image: Image, affine: Affine, *, window_px: Window) -> Image:
    """Resample an image by an affine map of pixel coordinates, and return the window of it."""
    x0, y0, x1, y1 = window_px
    moved = affine.copy()
    # OpenCV counts from the center of the first pixel.
    moved[:, 2] += affine[:, :2] @ [0.5, 0.5] - (x0 + 0.5, y0 + 0.5)
    # OpenCV warps four channels in half the time of three.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    warped = cv2.warpAffine(four, moved, (x1 - x0, y1 - y0), borderValue=(PAD_VALUE,) * 4)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)  # type: ignore[return-value]


def move_boxes(
    boxes_px: Boxes, affine: Affine, *, window_px: Window, strength: AugmentStrength
) -> Boxes:
    """Map boxes [N,4] by an affine, clip them to the window, and drop those with too little left.

    A turned box is that of the turned ellipse in the box, which resembles a polyp: half its width
    is the root of the summed squares of the half axes' shares in x. Maps that keep boxes upright
    are exact.
    """
    (a, b, x), (c, d, y) = affine.tolist()
    x0, y0, x1, y1 = window_px
    kept = []
    for box_x0, box_y0, box_x1, box_y1 in boxes_px.tolist():
        center_x, center_y = (box_x0 + box_x1) / 2, (box_y0 + box_y1) / 2
        half_x, half_y = (box_x1 - box_x0) / 2, (box_y1 - box_y0) / 2
        moved_x, moved_y = a * center_x + b * center_y + x, c * center_x + d * center_y + y
        reach_x, reach_y = math.hypot(a * half_x, b * half_y), math.hypot(c * half_x, d * half_y)
        left, right = max(moved_x - reach_x, x0), min(moved_x + reach_x, x1)
        top, bottom = max(moved_y - reach_y, y0), min(moved_y + reach_y, y1)
        width, height = right - left, bottom - top
        share = width * height / max(4 * reach_x * reach_y, 1e-9)
        if share > strength.min_box_share and min(width, height) >= strength.min_box_side_px:
            kept.append((left, top, right, bottom))
    return np.array(kept, dtype=np.float64).reshape(-1, 4)


def _overlap(first_px: Boxes, second_px: Boxes) -> bool:
    """Return whether boxes [N,4] and [1,4] overlap by a twentieth of the smaller of the two."""
    side = np.minimum(first_px, second_px)[:, 2:] - np.maximum(first_px, second_px)[:, :2]
    first, second = (boxes[:, 2:] - boxes[:, :2] for boxes in (first_px, second_px))
    smaller = np.minimum(first.prod(axis=1), second.prod(axis=1))
    return bool((side.clip(0).prod(axis=1) >= 0.05 * smaller).any())


@dataclass(frozen=True)
class _Augmenter:
    """Changes samples; arguments are those of `augment_sample`."""

    read: ReadSample
    partners: NDArray[np.int64]
    strength: AugmentStrength
    rng: np.random.Generator

    def single(self, index: int) -> tuple[Image, Boxes]:
        """Move one sample within its image."""
        strength, rng = self.strength, self.rng
        image, boxes = self.read(index)
        height, width = image.shape[:2]
        size = np.array([width, height], dtype=np.float64)
        angle_deg = 0.0
        if rng.random() < strength.turn:
            angle_deg = rng.uniform(-strength.turn_deg, strength.turn_deg)
        affine = _random_affine(
            rng,
            source_center_xy=size / 2,
            target_center_xy=size * self._shifted_center(),
            zoom=math.exp(rng.uniform(*np.log(strength.scale))),
            stretch=strength.stretch,
            may_turn=width == height,
            angle_deg=angle_deg,
        )
        window = (0, 0, width, height)
        moved = move_boxes(boxes, affine, window_px=window, strength=strength)
        return _warp(image, affine, window_px=window), moved

    def mosaic(self, index: int) -> tuple[Image, Boxes]:
        """Put four samples around a random corner (Bochkovskiy et al. 2020, YOLOv4)."""
        strength, rng = self.strength, self.rng
        others = self.partners[rng.integers(len(self.partners), size=3)]
        split = rng.uniform(0.35, 0.65, size=2)
        parts = [self.read(int(chosen)) for chosen in rng.permutation([index, *others])]
        canvas = np.empty_like(parts[0][0])
        height, width = canvas.shape[:2]
        size = np.array([width, height], dtype=np.float64)
        middle_x, middle_y = round(split[0] * width), round(split[1] * height)
        moved: list[Boxes] = []
        for position, (image, boxes) in enumerate(parts):
            x0, x1 = ((0, middle_x), (middle_x, width))[position % 2]
            y0, y1 = ((0, middle_y), (middle_y, height))[position // 2]
            affine = _random_affine(
                rng,
                source_center_xy=size * self._shifted_center(),
                target_center_xy=np.array([x0 + x1, y0 + y1]) / 2,
                zoom=rng.uniform(*strength.mosaic_scale),
                stretch=strength.stretch,
                may_turn=width == height,
            )
            window = (x0, y0, x1, y1)
            canvas[y0:y1, x0:x1] = _warp(image, affine, window_px=window)
            moved.append(move_boxes(boxes, affine, window_px=window, strength=strength))
        return canvas, np.concatenate(moved)

    def _shifted_center(self) -> Point:
        return 0.5 + self.rng.uniform(-self.strength.shift, self.strength.shift, size=2)

    def paste_polyp(self, image: Image, boxes: Boxes) -> tuple[Image, Boxes]:
        """Blend one polyp of another sample into a free place."""
        rng = self.rng
        donor, donor_boxes = self.read(int(self.partners[rng.integers(len(self.partners))]))
        height, width = image.shape[:2]
        if not len(donor_boxes):
            return image, boxes
        box = donor_boxes[rng.integers(len(donor_boxes))]
        side = box[2:] - box[:2]
        target_side = max(width, height) * rng.uniform(*self.strength.paste_side)
        zoom = float(np.clip(target_side / side.max(), 0.3, 1.5))
        half = side * zoom / 2
        if (2 * half < 8).any():
            return image, boxes
        whole = (0, 0, width, height)
        for _ in range(10):
            affine = _random_affine(
                rng,
                target_center_xy=rng.uniform(half, np.maximum(whole[2:] - half, half + 1)),
                source_center_xy=(box[:2] + box[2:]) / 2,
                zoom=zoom,
                stretch=0.0,
                may_turn=True,
            )
            placed = move_boxes(box[None], affine, window_px=whole, strength=self.strength)
            if len(placed) and not _overlap(boxes, placed):
                _blend(donor, image, affine, box_px=placed[0])
                return image, np.vstack([boxes, placed])
        return image, boxes


def _blend(donor: Image, image: Image, affine: Affine, *, box_px: NDArray[np.float64]) -> None:
    """Blend a moved donor into an image: opaque in the box's ellipse, fading over a margin."""
    middle, radius = (box_px[:2] + box_px[2:]) / 2, (box_px[2:] - box_px[:2]) / 2
    fade_px = max(1.0, 0.08 * radius.min())
    margin = 3 * fade_px + 0.05 * radius
    x0, y0 = np.maximum(0, box_px[:2] - margin).astype(int).tolist()
    x1, y1 = np.minimum(image.shape[1::-1], box_px[2:] + margin + 1).astype(int).tolist()
    solid = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    _fill_ellipse(solid, middle - (x0, y0), radius * 1.05, level=1)
    mask = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), fade_px)
    polyp, place = _warp(donor, affine, window_px=(x0, y0, x1, y1)), image[y0:y1, x0:x1]
    # The donor's light differs: its mean color moves halfway to that of the place.
    shift = 0.5 * np.subtract(cv2.mean(place, solid), cv2.mean(polyp, solid))
    image[y0:y1, x0:x1] = cv2.blendLinear(cv2.add(polyp, shift), place, mask, 1 - mask)


def _fill_ellipse(
    mask: Image, center_xy: Point, radii: Point, *, level: int, angle_deg: float = 0.0
) -> None:
    center, axes = (np.rint(pair).astype(int).tolist() for pair in (center_xy, radii))
    cv2.ellipse(mask, center, axes, angle_deg, 0, 360, level, cv2.FILLED)


def draw_color_change(
    strength: AugmentStrength, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw a change of brightness, white balance, contrast and saturation.

    Returns:
        Factors on the channels [3], the factor on the contrast [1], and a mix of the channels
        [3,3], the contrast included.
    """
    draws = rng.uniform(-1, 1, size=6)
    gain = (1 + strength.gain * draws[0]) * (1 + strength.channel_gain * draws[1:4])
    contrast, saturation = 1 + strength.gain * draws[4:5], 1 + strength.gain * draws[5]
    mix = contrast * (saturation * np.eye(3) + (1 - saturation) * GRAY)
    return gain, contrast, mix


def _recolor(image: Image, *, strength: AugmentStrength, rng: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and white balance by one matrix, and gamma."""
    if strength.gain or strength.channel_gain:
        gain, contrast, mix = draw_color_change(strength, rng)
        mean = sum(cv2.mean(image)) / 3
        offset = gain * mean * (1 - contrast)
        matrix = np.concatenate([gain[:, None] * mix, offset[:, None]], axis=1)
        image = cv2.transform(image, matrix)  # type: ignore[assignment]
    if strength.gamma:
        power = math.exp(rng.uniform(-strength.gamma, strength.gamma))
        image = effects.apply_curve(image, np.linspace(0, 1, 256) ** power * 255)
    return image


def _blur(image: Image, rng: np.random.Generator) -> Image:
    """Blur by defocus, or by the camera's motion along a line."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0))  # type: ignore[return-value]
    length = int(rng.integers(3, 10))
    kernel = effects.motion_blur_kernel(length, angle=rng.uniform(0, math.pi), side=length)
    return cv2.filter2D(image, -1, kernel)  # type: ignore[return-value]


@lru_cache(maxsize=8)
def _noise_bank(height: int, width: int, scale: int) -> Image:
    """Return noise [2H,2W,3] of `BANK_LEVELS` around 128, then enlarged by `scale`."""
    shape = (2 * height // scale, 2 * width // scale, 3)
    noise = np.random.default_rng(scale).standard_normal(shape, dtype=np.float32)
    noise = cv2.resize(128 + BANK_LEVELS * noise, (2 * width, 2 * height))  # type: ignore[assignment]
    return noise.round().clip(0, 255).astype(np.uint8)


def _noise(image: Image, rng: np.random.Generator) -> Image:
    """Add sensor noise; half of the time it is coarser than a pixel, as after scaling."""
    height, width = image.shape[:2]
    bank = _noise_bank(height, width, int(rng.integers(1, 3)))
    share = rng.uniform(3, 12) / BANK_LEVELS
    x, y = rng.integers((width + 1, height + 1)).tolist()
    part = bank[y : y + height, x : x + width]
    return cv2.addWeighted(image, 1, part, share, -128 * share)  # type: ignore[return-value]


def _compress(image: Image, rng: np.random.Generator) -> Image:
    # As if the image were BGR: the codec then loses more red than blue detail.
    return effects.recode_jpeg(image, quality=int(rng.integers(25, 80)))


def _add_speculars(image: Image, rng: np.random.Generator) -> Image:
    """Add a cluster of small bright ellipses, such as light reflected by wet mucosa."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    cluster = rng.uniform(0.15, 0.85, size=2) * (width, height)
    for _ in range(int(rng.integers(2, 12))):
        center = cluster + rng.normal(scale=0.08, size=2) * (width, height)
        axes = np.maximum(1, rng.uniform(0.003, 0.02, size=2) * max(width, height))
        _fill_ellipse(mask, center, axes, level=255, angle_deg=rng.uniform(0, 180))
    glow = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 1.5))
    return cv2.max(image, cv2.merge([glow] * 3))  # type: ignore[return-value]


def _add_text(image: Image, rng: np.random.Generator) -> Image:
    """Draw an overlay of a video processor: characters, or an inset square in a corner."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        side = int(rng.uniform(0.1, 0.3) * min(width, height))
        x = 0 if rng.random() < 0.5 else width - side
        y = 0 if rng.random() < 0.5 else height - side
        brightest = 60 if rng.random() < 0.7 else 160
        image[y : y + side, x : x + side] = rng.integers(0, brightest, size=3)
        return image
    letters = "".join(chr(rng.integers(48, 91)) for _ in range(rng.integers(3, 14)))
    color = (255, 255, 255) if rng.random() < 0.7 else (240, 230, 60)
    place = (int(rng.uniform(0, 0.7) * width), int(rng.uniform(0.05, 1) * height))
    scale = rng.uniform(0.25, 0.6) * width / 256
    effects.put_text(image, letters, bottom_left_xy=place, scale=scale, color=color)
    return image


def augment_sample(
    read: ReadSample,
    index: int,
    *,
    partners: NDArray[np.int64],
    strength: AugmentStrength,
    rng: np.random.Generator,
) -> tuple[Image, Boxes]:
    """Augment one sample.

    Args:
        read: Reads the sample and its partners.
        index: Number of the sample.
        partners: Numbers of the samples that mosaics and pasted polyps may take.
        strength: Strength of the augmentation.
        rng: The only source of randomness.

    Returns:
        An image [H,W,3] of the same size, and its boxes [N,4] in its pixels.
    """
    augmenter = _Augmenter(read, partners, strength, rng)
    if rng.random() < strength.mosaic:
        image, boxes = augmenter.mosaic(index)
    else:
        image, boxes = augmenter.single(index)
        if rng.random() < strength.paste:
            image, boxes = augmenter.paste_polyp(image, boxes)
    image = _recolor(image, strength=strength, rng=rng)
    for chance, change in (
        (strength.speculars, _add_speculars),
        (strength.blur, _blur),
        (strength.noise, _noise),
        (strength.text, _add_text),
        (strength.compression, _compress),
    ):
        if rng.random() < chance:
            image = change(image, rng)
    return image, boxes


def resized(read: ReadSample, *, size_wh: tuple[int, int]) -> ReadSample:
    """Return a function that reads the same samples at another size."""

    def read_resized(index: int) -> tuple[Image, Boxes]:
        image, boxes = read(index)
        height, width = image.shape[:2]
        if size_wh == (width, height):
            return image, boxes
        # The side shrinks at most to about half, where this is as good as averaging, and faster.
        smaller: Image = cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        return smaller, boxes * np.tile(np.array(size_wh) / (width, height), 2)

    return read_resized


def batch_samples(samples: list[tuple[Image, Boxes]]) -> Batch:
    """Stack samples, with boxes normalized and padded to the largest number of boxes (at least 1).

    Args:
        samples: Images [H,W,3] of one size with boxes [N,4] in pixels.
    """
    images = np.stack([image for image, _ in samples])
    height, width = images.shape[1:3]
    most = max(1, *(len(boxes) for _, boxes in samples))
    boxes_xyxy = np.zeros((len(samples), most, 4), dtype=np.float32)
    mask = np.zeros((len(samples), most), dtype=np.uint8)
    for row, (_, boxes) in enumerate(samples):
        boxes_xyxy[row, : len(boxes)] = boxes / (width, height, width, height)
        mask[row, : len(boxes)] = 1
    return Batch(images, boxes_xyxy, mask)
