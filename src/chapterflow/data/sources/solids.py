"""Generated bodies as voxels: what a 3D convolution can tell apart and a slice cannot.

Geometry is done in whole numbers alone, so that the same seed gives the same bytes on every
machine: a rotation comes from a quaternion of integers, whose matrix is one of integers over the
quaternion's squared length `n`, and every inequality is multiplied by the powers of `n` that it
needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.types import DatasetBlock, Seed, SplitShare


class Solids(DatasetBlock):
    """Generated bodies of seven shapes as voxels, turned, moved and scaled at random.

    Attributes:
        seed: Seed of bodies, noise and splits.
        each: Bodies of each shape.
        side: Voxels along each axis.
        validation: Share of all bodies for early stopping.
        test: Share of all bodies held out for evaluation.
    """

    kind: Literal["solids"]
    seed: Seed
    each: Annotated[int, Field(ge=4)]
    side: Annotated[int, Field(ge=12, le=32)]
    validation: SplitShare
    test: SplitShare


Integers = NDArray[np.int64]
Voxels = NDArray[np.bool_]
#: Length units in a voxel: bodies are placed and measured in quarters of a voxel.
UNITS = 4
#: Largest part of a quaternion. With `side` at most 32 the highest power, of the torus, stays below
#: 2^63: coordinates are at most 32 * 4 * sqrt(3) * 4 * QUATERNION^2 / 2 = 2^14.
QUATERNION = 6


def read(params: Solids, fetch: Fetch) -> SourceData:
    """Generate the bodies; nothing is fetched."""
    rng = np.random.default_rng(params.seed)
    labels = np.tile(np.arange(len(BODIES), dtype=np.uint8), params.each)
    shapes = list(BODIES.values())
    volumes = np.stack([volume(shapes[label], params.side, rng) for label in labels])
    split = stratified_split(
        labels, validation=params.validation, test=params.test, seed=params.seed
    )
    return SourceData(
        arrays={"volumes": volumes[..., np.newaxis], "labels": labels, "split": split},
        shape=(params.side, params.side, params.side, 1),
        classes=list(BODIES),
        value_max=255,
        title=f"Bodies of {len(BODIES)} kinds as voxels, turned and moved at random",
        source="chapterflow, generated",
        licence="CC0 1.0",
    )


def volume(inside: Inside, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw size, place, rotation, brightness and noise, and return `(side, side, side)`.

    Args:
        inside: Which points belong to the body.
        side: Voxels along each axis.
        rng: Source of the draws; nothing but whole numbers is drawn.
    """
    size = int(rng.integers(side * UNITS * 10 // 32, side * UNITS * 13 // 32 + 1))
    centre = rng.integers(-UNITS, UNITS + 1, 3)
    matrix, scale = rotation(rng)
    # Middles of the voxels, from the middle of the volume.
    line = UNITS * np.arange(side, dtype=np.int64) - UNITS * (side - 1) // 2
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1) - centre
    x, y, z = np.moveaxis(points @ matrix, -1, 0)
    body = inside(x, y, z, size, scale)
    dark, light = int(rng.integers(20, 61)), int(rng.integers(140, 211))
    # Four uniform draws add up to nearly a normal one, in whole numbers.
    noise = rng.integers(-12, 13, (4, *body.shape)).sum(axis=0)
    values: NDArray[np.uint8] = np.clip(np.where(body, light, dark) + noise, 0, 255).astype(
        np.uint8
    )
    return values


def rotation(rng: np.random.Generator) -> tuple[Integers, int]:
    """Return a random rotation as a matrix of integers and the number that divides it.

    Directions are even but for the grid of the quaternions inside the ball of radius `QUATERNION`.
    """
    while True:
        parts = [int(part) for part in rng.integers(-QUATERNION, QUATERNION + 1, 4)]
        if 0 < (scale := sum(part * part for part in parts)) <= QUATERNION**2:
            break
    a, b, c, d = parts
    matrix = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
    ]
    return np.array(matrix, np.int64), scale


#: Coordinates times `n`, size in units, `n` -> which points are inside. Bodies reach from the
#: centre to about `size`.
Inside = Callable[[Integers, Integers, Integers, int, int], Voxels]


def ball(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Radius 0.9 of the size."""
    return np.asarray(100 * (x * x + y * y + z * z) <= 81 * (size * n) ** 2)


def box(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Half edges 0.7 of the size."""
    reach = np.maximum(np.maximum(abs(x), abs(y)), abs(z))
    return np.asarray(10 * reach <= 7 * size * n)


def cylinder(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Radius 0.5 of the size, half height 1."""
    return np.asarray((4 * (x * x + y * y) <= (size * n) ** 2) & (abs(z) <= size * n))


def cone(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Base of radius 0.8 of the size at -0.7, tip at +1."""
    to_tip = size * n - z
    # radius / (distance to the tip) is at most 0.8 / 1.7.
    narrow = 289 * (x * x + y * y) <= 64 * to_tip * to_tip
    return np.asarray(narrow & (to_tip >= 0) & (10 * to_tip <= 17 * size * n))


def torus(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Ring of radius 0.75 of the size, tube of radius 0.3: `(r^2 + R^2 - t^2)^2 <= 4 R^2 p^2`."""
    flat = x * x + y * y
    ring, tube = 3 * size * n // 4, 3 * size * n // 10
    # Near the axis and far away the square is large: no point there is inside, so it is left out.
    near = flat + z * z <= (2 * size * n) ** 2
    power = np.where(near, flat + z * z + ring * ring - tube * tube, 0) ** 2
    return np.asarray(near & (power <= 4 * ring * ring * np.where(near, flat, 0)))


def tetrahedron(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Regular, its four faces 0.42 of the size from the centre times sqrt(3)."""
    faces = np.stack([x + y + z, x - y - z, y - x - z, z - x - y])
    return np.asarray(100 * faces.max(axis=0) <= 70 * size * n)


def cross(x: Integers, y: Integers, z: Integers, size: int, n: int) -> Voxels:
    """Three bars across each other, half length 1 of the size, half width 0.25."""
    far = np.sort(np.abs(np.stack([x, y, z])), axis=0)
    return np.asarray((far[2] <= size * n) & (4 * far[1] <= size * n))


BODIES: dict[str, Inside] = {
    body.__name__: body for body in (ball, box, cylinder, cone, torus, tetrahedron, cross)
}


SOURCE = Source("solids", Solids, "volumes", read)
