"""Colours and light: what paint objects wear, and how the time of day and the air change it."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mls_d2.scenes.parts import Colour

T = TypeVar("T")

SKINS: tuple[Colour, ...] = (
    (244, 208, 177), (228, 184, 148), (198, 146, 108), (150, 102, 70), (104, 68, 48),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (28, 24, 22), (62, 42, 28), (110, 76, 44), (196, 158, 92), (168, 168, 166), (132, 58, 32),
)  # fmt: skip
CLOTHS: tuple[Colour, ...] = (
    (34, 38, 52), (44, 62, 104), (92, 98, 108), (188, 178, 160), (70, 60, 48), (238, 236, 230),
)  # fmt: skip
CAR_PAINTS: tuple[Colour, ...] = (
    (226, 228, 230), (176, 180, 184), (104, 108, 114), (36, 38, 42), (168, 30, 34),
    (30, 66, 138), (70, 118, 170), (38, 92, 64), (216, 178, 48), (122, 82, 54), (214, 108, 40),
)  # fmt: skip
WALLS: tuple[Colour, ...] = (
    (168, 92, 72), (190, 140, 108), (206, 190, 160), (160, 156, 150), (122, 112, 106),
    (214, 206, 192), (134, 86, 70), (176, 170, 140), (150, 164, 172), (196, 160, 120),
)  # fmt: skip
FURS: tuple[Colour, ...] = (
    (44, 36, 32), (92, 62, 40), (150, 106, 62), (204, 164, 104), (232, 226, 214), (120, 112, 106),
)  # fmt: skip
WOODS: tuple[Colour, ...] = ((128, 88, 54), (154, 112, 72), (92, 66, 46), (70, 92, 70))
GLASS: Colour = (66, 80, 94)
TYRE: Colour = (30, 30, 32)
METAL: Colour = (126, 130, 134)


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """Return one of ``items``, each as likely as the others."""
    return items[int(rng.integers(len(items)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return True with the given probability."""
    return bool(rng.random() < probability)


def vivid(rng: np.random.Generator) -> Colour:
    """Return a saturated colour of any hue."""
    red, green, blue = colorsys.hsv_to_rgb(
        rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.55, 0.98)
    )
    return 255 * red, 255 * green, 255 * blue


def varied(rng: np.random.Generator, colour: Colour, spread: float = 12.0) -> Colour:
    """Return a colour near ``colour``: the channels moved a little, the brightness more."""
    shift = rng.normal(0, 1, 4)
    red, green, blue = (
        min(255.0, max(0.0, value + spread * (shift[0] + 0.4 * shift[k + 1])))
        for k, value in enumerate(colour)
    )
    return red, green, blue


def darker(colour: Colour, factor: float) -> Colour:
    """Return ``colour`` with its brightness multiplied, at most white."""
    red, green, blue = (min(255.0, value * factor) for value in colour)
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Light:
    """The time of day and the air.

    Args:
        tint: what white paint looks like in the sun, as factors of red, green, blue.
        sky_top: colour of the sky overhead.
        sky_low: colour of the sky at the horizon, which far things fade into.
        ambient: share of the light that comes from everywhere.
        sun: share of the light that comes from the sun.
        sun_heading: the sun's direction over the ground, in radians, in the world frame.
        haze: depth in metres at which things have faded by 63 %.
        shadow: how much darker the ground is in the shadow, 0 to 1.
        clouds: how much of the sky is cloud, 0 to 1.
    """

    tint: Colour
    sky_top: Colour
    sky_low: Colour
    ambient: float
    sun: float
    sun_heading: float
    haze: float
    shadow: float
    clouds: float

    def fade(self, depth: float) -> float:
        """Return how much of a colour the haze has replaced at a depth in metres, 0 to 1."""
        return 1.0 - math.exp(-depth / self.haze)

    def shade(self, normal: Sequence[float], heading: float) -> float:
        """Return the brightness of a face; its normal is in the frame of an object's heading."""
        angle = self.sun_heading - heading
        level = normal[0] * math.cos(angle) + normal[2] * math.sin(angle)
        return self.ambient + self.sun * max(0.0, 0.6 * level + 0.8 * normal[1])


_TIMES: dict[str, dict] = {
    "noon": {
        "tint": (1.0, 1.0, 0.98), "sky_top": (64, 118, 196), "sky_low": (182, 208, 230),
        "ambient": 0.72, "sun": 0.42, "haze": 160.0, "shadow": 0.42, "clouds": 0.35,
    },
    "overcast": {
        "tint": (0.88, 0.9, 0.94), "sky_top": (158, 166, 176), "sky_low": (202, 206, 210),
        "ambient": 0.84, "sun": 0.16, "haze": 90.0, "shadow": 0.2, "clouds": 0.7,
    },
    "evening": {
        "tint": (1.02, 0.86, 0.68), "sky_top": (92, 110, 160), "sky_low": (244, 186, 128),
        "ambient": 0.6, "sun": 0.5, "haze": 110.0, "shadow": 0.4, "clouds": 0.4,
    },
    "dusk": {
        "tint": (0.56, 0.58, 0.72), "sky_top": (44, 52, 92), "sky_low": (168, 126, 132),
        "ambient": 0.76, "sun": 0.24, "haze": 120.0, "shadow": 0.25, "clouds": 0.45,
    },
}  # fmt: skip
_TIME_NAMES = (*("noon",) * 4, *("overcast",) * 3, *("evening",) * 2, "dusk")


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a time of day, with its colours varied."""
    time = _TIMES[pick(rng, _TIME_NAMES)]
    gain = rng.uniform(0.88, 1.1)
    red, green, blue = time["tint"]
    return Light(
        tint=(red * gain, green * gain, blue * gain),
        sky_top=varied(rng, time["sky_top"]),
        sky_low=varied(rng, time["sky_low"], 8.0),
        ambient=time["ambient"] * rng.uniform(0.92, 1.06),
        sun=time["sun"] * rng.uniform(0.8, 1.2),
        sun_heading=rng.uniform(0, 2 * math.pi),
        haze=time["haze"] * rng.uniform(0.8, 1.4),
        shadow=time["shadow"] * rng.uniform(0.7, 1.2),
        clouds=time["clouds"] * rng.uniform(0.4, 1.6),
    )
