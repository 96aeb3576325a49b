"""The part of augmentation that touches every pixel of every image, on the GPU that trains.

Color, specular reflections, blur and noise have the ranges and chances of
`haustra.training.augment`. Changes that need other samples (mosaics, pasted polyps) or OpenCV
(scale, text, compression) stay on the CPU.

All randomness comes from the sample's own generator, except the grain of the noise, which comes
from the device's. Shapes: B batch, K changed images, H and W of the image.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from haustra.core.effects import motion_blur_kernel
from haustra.models.losses import DeviceBatch
from haustra.training.augment import draw_color_change
from haustra.training.recipe import AugmentStrength

BLUR_SIDE = 13  # side of the blur kernels: three times the largest sigma to both sides
MAX_SIGMA_PX = 2.0
MAX_SPECULARS = 11
STREAM = 1
"""Part of the seed that makes a sample's generator here differ from that of `augment_sample`."""


def without_pixels(strength: AugmentStrength) -> AugmentStrength:
    """Return the strength that is left for the CPU: geometry, text and compression."""
    return replace(
        strength, gain=0.0, channel_gain=0.0, gamma=0.0, blur=0.0, noise=0.0, speculars=0.0
    )


def _color(
    pixels: Tensor, *, strength: AugmentStrength, rngs: Sequence[np.random.Generator]
) -> Tensor:
    """Change brightness, contrast, saturation, white balance and gamma of [B,3,H,W] in 0..255."""
    mixes, offsets, powers = [], [], []
    for rng in rngs:
        gain, contrast, channels = draw_color_change(strength, rng)
        mixes.append(gain[:, None] * channels)
        offsets.append(gain * (1 - contrast))
        powers.append(math.exp(rng.uniform(-strength.gamma, strength.gamma)))

    mix, offset, power = (
        torch.from_numpy(np.asarray(values, dtype=np.float32)).to(pixels.device)
        for values in (mixes, offsets, powers)
    )
    mean = pixels.mean(dim=(1, 2, 3))
    mixed = torch.einsum("bij,bjhw->bihw", mix, pixels)
    mixed = mixed + (offset * mean[:, None])[:, :, None, None]
    power = power[:, None, None, None]
    return (mixed.clamp(0, 255) / 255) ** power * 255


def _add_speculars(pixels: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Add a cluster of small saturated ellipses with soft edges to each of [K,3,H,W]."""
    height, width = pixels.shape[2:]
    ellipses = np.zeros((len(rngs), MAX_SPECULARS, 6), dtype=np.float32)
    for row, rng in enumerate(rngs):
        cluster = rng.uniform(0.15, 0.85, size=2) * (width, height)
        count = int(rng.integers(2, MAX_SPECULARS + 1))
        centers = cluster + rng.normal(scale=0.08, size=(count, 2)) * (width, height)
        axes = np.maximum(1, rng.uniform(0.003, 0.02, size=(count, 2)) * max(width, height))
        angles = rng.uniform(0, math.pi, size=count)
        edges = np.full(count, rng.uniform(0.6, 1.5))
        ellipses[row, :count] = np.column_stack([centers, axes, angles, edges])
    x0, y0, a, b, angle, softness = (
        values[..., None, None]
        for values in torch.from_numpy(ellipses).to(pixels.device).unbind(-1)
    )
    y, x = torch.meshgrid(
        torch.arange(height, device=pixels.device) + 0.5,
        torch.arange(width, device=pixels.device) + 0.5,
        indexing="ij",
    )
    along = (x - x0) * angle.cos() + (y - y0) * angle.sin()
    across = (y - y0) * angle.cos() - (x - x0) * angle.sin()
    reach = torch.sqrt((along / a.clamp(min=1)) ** 2 + (across / b.clamp(min=1)) ** 2)
    # Roughly the distance to the edge in pixels; unused rows have no axes.
    outside_px = (reach - 1) * torch.minimum(a, b)
    glow = torch.sigmoid(-2 * outside_px / softness.clamp(min=0.1)) * (a > 0)
    return torch.maximum(pixels, 255 * glow.amax(dim=1, keepdim=True))


def _blur_kernel(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a kernel of defocus, or of the camera's motion along a line."""
    if rng.random() >= 0.5:
        angle, length = rng.uniform(0, math.pi), int(rng.integers(3, 10))
        return motion_blur_kernel(length, angle=angle, side=BLUR_SIDE)
    offsets_px = np.arange(BLUR_SIDE) - BLUR_SIDE // 2
    line = np.exp(-0.5 * (offsets_px / rng.uniform(0.5, MAX_SIGMA_PX)) ** 2)
    kernel = np.outer(line, line).astype(np.float32)
    return np.asarray(kernel / kernel.sum())


def _blur(pixels: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Blur each of [K,3,H,W] by its own kernel."""
    kernels = torch.from_numpy(np.stack([_blur_kernel(rng) for rng in rngs])).to(pixels.device)
    count, channels, height, width = pixels.shape
    padded = functional.pad(pixels, (BLUR_SIDE // 2,) * 4, mode="reflect")
    blurred = functional.conv2d(
        padded.reshape(1, count * channels, *padded.shape[2:]),
        kernels.repeat_interleave(channels, dim=0)[:, None],
        groups=count * channels,
    )
    return blurred.reshape(count, channels, height, width)


def _add_noise(
    pixels: Tensor, rngs: Sequence[np.random.Generator], *, generator: torch.Generator
) -> Tensor:
    """Add sensor noise to each of [K,3,H,W]; coarser than a pixel half of the time."""
    count, channels, height, width = pixels.shape
    scales = np.array([rng.integers(1, 3) for rng in rngs])
    sizes = np.array([rng.uniform(3, 12) for rng in rngs], dtype=np.float32)

    def grain(rows: int, columns: int) -> Tensor:
        shape = (count, channels, rows, columns)
        return torch.randn(shape, generator=generator, device=pixels.device)

    coarse = functional.interpolate(
        grain(height // 2, width // 2), size=(height, width), mode="bilinear", align_corners=False
    )
    is_fine = torch.from_numpy(scales == 1).to(pixels.device)[:, None, None, None]
    size = torch.from_numpy(sizes).to(pixels.device)[:, None, None, None]
    return pixels + size * torch.where(is_fine, grain(height, width), coarse)


def disturb_pixels(
    images: Tensor,
    *,
    strength: AugmentStrength,
    rngs: Sequence[np.random.Generator],
    generator: torch.Generator,
) -> Tensor:
    """Change colors, and by chance add specular reflections, blur and noise.

    Args:
        images: uint8 [B,H,W,3] on any device, as the result.
        generator: Generator of the noise's grain, on the device.
    """
    pixels = _color(images.permute(0, 3, 1, 2).float(), strength=strength, rngs=rngs)
    for chance, change in (
        (strength.speculars, _add_speculars),
        (strength.blur, _blur),
        (strength.noise, lambda chosen, own: _add_noise(chosen, own, generator=generator)),
    ):
        rows = [row for row, rng in enumerate(rngs) if rng.random() < chance]
        if rows:
            # An index is copied once; a mask would make the CPU wait for the number of rows.
            index = torch.tensor(rows, device=images.device)
            pixels[index] = change(pixels[index], [rngs[row] for row in rows]).clamp(0, 255)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def disturbed_batches(
    batches: Generator[tuple[NDArray[np.int64], DeviceBatch], None, None],
    *,
    strength: AugmentStrength,
    seed: int,
    epoch: int,
) -> Generator[tuple[NDArray[np.int64], DeviceBatch], None, None]:
    """Yield each batch with its pixels changed, on its device; close `batches` in the end."""
    with closing(batches):
        for indices, batch in batches:
            rngs = [np.random.default_rng([seed, epoch, int(index), STREAM]) for index in indices]
            generator = torch.Generator(batch.images.device)
            generator.manual_seed(int(rngs[0].integers(2**62)))
            images = disturb_pixels(batch.images, strength=strength, rngs=rngs, generator=generator)
            yield indices, batch._replace(images=images)
