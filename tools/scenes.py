"""Scenes that are drawn by a few numbers each: balloons, cities, deserts and more, in other colours every time."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

W, H = 480, 360  # pixels of a scene
Rng = np.random.Generator
Colour = tuple[float, float, float]


def _gradient(top: Colour, bottom: Colour) -> np.ndarray:
    """(H, W, 3) from one colour above to another below."""
    down = np.linspace(0, 1, H)[:, None, None]
    return np.broadcast_to(np.array(top) * (1 - down) + np.array(bottom) * down, (H, W, 3)).copy()


def _stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1."""
    low, high = float(values.min()), float(values.max())
    found: np.ndarray = (values - low) / (high - low)
    return found


def _clouds(rng: Rng, wide: int = 4, high: int = 4, octaves: int = 4) -> np.ndarray:
    """(H, W) smooth noise in [0, 1]: random numbers on ever finer grids, each half as strong as the one before."""
    total: np.ndarray = np.zeros((H, W))
    for octave in range(octaves):
        rough = Image.fromarray(rng.random((high * 2**octave, wide * 2**octave)).astype(np.float32))
        total += np.asarray(rough.resize((W, H), Image.Resampling.BICUBIC)) / 2**octave
    return _stretched(total)


def _ridge(rng: Rng, rough: float) -> np.ndarray:
    """(W,) heights in [0, 1] of a line of hills; the larger `rough`, the more the fine steps count."""
    total: np.ndarray = np.zeros(W)
    for octave in range(6):
        points = rng.random(3 * 2**octave + 1)
        total += np.interp(np.linspace(0, len(points) - 1, W), np.arange(len(points)), points) * rough**octave
    return _stretched(total)


def _layer(canvas: np.ndarray, heights: np.ndarray, colour: Colour) -> None:
    """Fill all below a line, given from below as shares of the height; a little lighter towards the bottom."""
    edge = (1 - heights) * H
    down = np.arange(H)[:, None]
    shade = 1 + 0.25 * ((down - edge) / H).clip(0, 1)
    canvas[:] = np.where((down >= edge)[..., None], np.array(colour) * shade[..., None], canvas)


def _varied(rng: Rng, colour: Colour, by: float = 18.0) -> Colour:
    red, green, blue = (float(value) for value in np.array(colour) + rng.uniform(-by, by, 3))
    return red, green, blue


def _picture(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def _whole(colour: Colour | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(float(value)))) for value in colour)
    return red, green, blue


def _cloudy(rng: Rng, top: Colour, bottom: Colour, share: float) -> np.ndarray:
    """A sky with clouds of a strength of at most `share`."""
    sky = _gradient(_varied(rng, top), _varied(rng, bottom))
    white = ((_clouds(rng, 3, 6) - 0.5) * 2.4).clip(0, 1)[..., None] * share
    return sky * (1 - white) + np.array([250, 250, 252]) * white


def _mountains(rng: Rng) -> Image.Image:
    canvas = _cloudy(rng, (84, 140, 205), (214, 226, 236), 0.7)
    base = rng.uniform(0.6, 0.78)
    peaks = base - 0.32 + 0.36 * _ridge(rng, 0.56)
    _layer(canvas, peaks, _varied(rng, (104, 112, 132)))
    edge = ((1 - peaks) * H)[None, :]
    down = np.arange(H)[:, None]
    snow = (down >= edge) & (
        down < edge + (peaks[None, :] - base + 0.22).clip(0) * H * (0.3 + 0.9 * _clouds(rng, 12, 8))
    )
    canvas[snow] = (240, 244, 250)
    for place, colour in enumerate([(72, 98, 96), (58, 92, 62), (44, 74, 44)]):
        _layer(canvas, 0.36 - 0.11 * place + 0.12 * _ridge(rng, 0.5), _varied(rng, colour, 10))
    return _picture(canvas)


def _sea(rng: Rng) -> Image.Image:
    evening = rng.random()
    top, low = (52 + 30 * evening, 66, 128), (250, 150 + 50 * evening, 90 + 50 * evening)
    canvas = _gradient(_varied(rng, top), _varied(rng, low))
    horizon = round(H * rng.uniform(0.5, 0.62))
    across, down = np.arange(W)[None, :], np.arange(H)[:, None]
    sun_x, sun_y, radius = (
        rng.uniform(0.2, 0.8) * W,
        horizon - rng.uniform(0.02, 0.22) * H,
        rng.uniform(0.05, 0.09) * H,
    )
    far = np.hypot(across - sun_x, down - sun_y)
    glow = np.exp(-far / (4 * radius))[..., None]
    canvas = canvas * (1 - 0.7 * glow) + np.array([255, 226, 170]) * 0.7 * glow
    canvas[far < radius] = (255, 244, 214)
    water = canvas[horizon - (np.arange(H - horizon) * 0.8).astype(int).clip(0, horizon) - 1] * 0.62
    ripples = _clouds(rng, 4, 60, 3)[horizon:]
    spread = radius * (0.7 + 2.2 * (down[horizon:] - horizon) / (H - horizon))
    track = np.exp(-(((across - sun_x) / spread) ** 2)) * (ripples > 0.48)
    water = water * (0.78 + 0.44 * ripples[..., None]) + np.array([255, 214, 150]) * 0.75 * track[..., None]
    canvas[horizon:] = water
    return _picture(canvas)


def _desert(rng: Rng) -> Image.Image:
    canvas = _gradient(_varied(rng, (92, 152, 210)), _varied(rng, (240, 222, 190)))
    sand = np.array(_varied(rng, (222, 166, 98)))
    across, down = np.arange(W), np.arange(H)[:, None]
    for place in range(4):
        phase, waves = rng.uniform(0, 7), rng.uniform(0.8, 1.8)
        crest = 0.6 - 0.15 * place + 0.09 * np.sin(across / W * 6.28 * waves + phase) + 0.03 * _ridge(rng, 0.3)
        edge = (1 - crest) * H
        slope = np.gradient(edge)
        light = (0.84 + 0.55 * slope).clip(0.5, 1.12)[None, :]
        ripple = 1 + 0.035 * np.sin((down - edge) * 0.45 + 2 * np.sin(across / 37))
        colour = sand * (light * ripple)[..., None] * (0.8 + 0.07 * place)
        canvas = np.where((down >= edge)[..., None], colour, canvas)
    return _picture(canvas)


def _forest(rng: Rng) -> Image.Image:
    fog = _varied(rng, (206, 216, 214), 14)
    drawn = _picture(_gradient(fog, _varied(rng, (176, 192, 184))))
    dark = np.array(_varied(rng, (22, 54, 38), 10))
    for place in range(5):
        pen = ImageDraw.Draw(drawn)
        share = (place + 1) / 5
        colour = _whole(np.array(fog) * (1 - share) + dark * share)
        foot = H * (0.42 + 0.16 * place)
        for _ in range(26 - 3 * place):
            x, tall = rng.uniform(-20, W + 20), H * rng.uniform(0.2, 0.34) * (0.7 + 0.45 * share)
            ground = foot + rng.uniform(-0.03, 0.05) * H
            for tier in range(6):
                top, wide = ground - tall + tall * tier * 0.14, tall * (0.05 + 0.038 * tier)
                pen.polygon([(x, top), (x - wide, top + tall * 0.24), (x + wide, top + tall * 0.24)], fill=colour)
            pen.rectangle([x - 2, ground - 6, x + 2, 2 * H], fill=colour)
        pen.rectangle([0, foot + 0.02 * H, W, 2 * H], fill=colour)
        drawn = drawn.filter(ImageFilter.GaussianBlur(1.6 * (1 - share)))
    return drawn


def _city(rng: Rng) -> Image.Image:
    canvas = _gradient(_varied(rng, (12, 16, 44), 8), _varied(rng, (86, 62, 112)))
    stars = rng.random((H, W)) > 0.9993
    canvas[stars] = (220, 220, 235)
    drawn = _picture(canvas)
    pen = ImageDraw.Draw(drawn)
    for share, shade in ((0.62, 54), (0.46, 34), (0.3, 18)):
        left = -rng.uniform(0, 40)
        while left < W:
            wide, tall = rng.uniform(34, 74), H * share * rng.uniform(0.55, 1.15)
            top = H - tall
            pen.rectangle([left, top, left + wide, H], fill=_whole((shade, shade + 4, shade + 20)))
            if rng.random() < 0.25:
                pen.line([left + wide / 2, top - 22, left + wide / 2, top], fill=(60, 60, 80), width=2)
            lit = rng.uniform(0.2, 0.6)
            for x in np.arange(left + 6, left + wide - 8, 10):
                for y in np.arange(top + 8, H - 6, 13):
                    if rng.random() < lit * (1 - shade / 90):
                        pen.rectangle([x, y, x + 4, y + 6], fill=_whole(_varied(rng, (250, 206, 118), 26)))
            left += wide + rng.uniform(0, 8)
    return drawn


def _flowers(rng: Rng) -> Image.Image:
    green = np.array(_varied(rng, (70, 122, 56), 24))
    ground = green * (0.45 + 0.9 * _clouds(rng, 5, 4, 3)[..., None])
    drawn = _picture(ground).filter(ImageFilter.GaussianBlur(9))
    choice = [(236, 84, 126), (248, 196, 58), (162, 104, 214), (250, 246, 240), (238, 92, 52)]
    petal = _varied(rng, choice[int(rng.integers(len(choice)))])
    petals = int(rng.integers(5, 13))
    for size in np.sort(rng.uniform(0.12, 0.36, int(rng.integers(2, 6)))):
        pen = ImageDraw.Draw(drawn)
        x, y, radius = rng.uniform(0.12, 0.88) * W, rng.uniform(0.12, 0.8) * H, size * H
        pen.line([x, y, x + rng.uniform(-30, 30), H + 10], fill=_whole(green * 0.7), width=6)
        turn = rng.uniform(0, 6.28)
        for ring, light in ((1.0, 0.86), (0.72, 1.06)):
            for leaf in range(petals):
                angle = turn + 6.283 * (leaf + (0.5 if ring < 1 else 0)) / petals
                along, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
                steps = np.linspace(0, 6.283, 28)
                shape = along * (0.56 + 0.44 * np.cos(steps))[:, None] + aside * (1.5 / petals * np.sin(steps))[:, None]
                points = [(x + radius * ring * a, y + radius * ring * b) for a, b in shape.tolist()]
                colour = _whole(np.array(petal) * light * rng.uniform(0.92, 1.04))
                pen.polygon(points, fill=colour)
        heart = radius * 0.24
        pen.ellipse([x - heart, y - heart, x + heart, y + heart], fill=_whole(_varied(rng, (120, 78, 30))))
    return drawn


def _planets(rng: Rng) -> Image.Image:
    canvas = _gradient((6, 8, 20), (14, 10, 30))
    canvas += _clouds(rng)[..., None] ** 3 * np.array(_varied(rng, (60, 34, 90), 30))
    stars = rng.random((H, W)) > 0.9985
    canvas[stars] = rng.uniform(120, 255, (int(stars.sum()), 1))
    across, down = np.arange(W)[None, :], np.arange(H)[:, None]
    x, y, radius = rng.uniform(0.3, 0.7) * W, rng.uniform(0.35, 0.65) * H, rng.uniform(0.18, 0.34) * H
    u, v = (across - x) / radius, (down - y) / radius
    inside = u**2 + v**2 < 1
    depth = np.sqrt((1 - u**2 - v**2).clip(0))
    tilt = rng.uniform(-0.5, 0.5)
    bands = 0.5 + 0.5 * np.sin((v + tilt * u) * rng.uniform(5, 14) + 3 * _clouds(rng, 3, 3))
    choice = [(214, 160, 108), (96, 150, 214), (196, 92, 62), (128, 190, 170), (222, 200, 150)]
    bright = np.array(_varied(rng, choice[int(rng.integers(len(choice)))]))
    light = (0.25 - 0.6 * u * rng.choice([-1, 1]) - 0.25 * v + 0.75 * depth).clip(0.04, 1.15)
    surface = (bright * (0.62 + 0.42 * bands[..., None])) * light[..., None]
    if rng.random() < 0.5:
        far = np.hypot(u + tilt * v, (v - tilt * u) * 4.2)
        ring = (far > 1.35) & (far < 2.1) & ~(inside & (v - tilt * u < 0))
        canvas = np.where(inside[..., None], surface, canvas)
        stripe = 0.45 + 0.3 * np.sin(far * 24)
        return _picture(np.where(ring[..., None], bright * stripe[..., None], canvas))
    return _picture(np.where(inside[..., None], surface, canvas))


def _balloons(rng: Rng) -> Image.Image:
    drawn = _picture(_cloudy(rng, (96, 164, 226), (206, 228, 240), 0.85))
    for size in np.sort(rng.uniform(0.08, 0.24, int(rng.integers(1, 6)))):
        pen = ImageDraw.Draw(drawn)
        x, y, radius = rng.uniform(0.12, 0.88) * W, rng.uniform(0.2, 0.66) * H, size * H
        first = _varied(rng, [(222, 60, 56), (246, 190, 50), (64, 120, 200), (120, 180, 80)][int(rng.integers(4))])
        second = _varied(rng, [(250, 244, 230), (250, 208, 90), (40, 70, 130)][int(rng.integers(3))])
        for row in np.arange(-radius, radius * 1.35):
            half = (
                np.sqrt(max(0.0, radius**2 - row**2)) if row < radius * 0.45 else radius * (1.31 - 0.93 * row / radius)
            )
            if half < radius * 0.12:
                continue
            for part in range(9):
                a, b = (-np.cos(np.pi * (part + step) / 9) * half for step in (0, 1))
                light = 1.08 - 0.07 * part
                colour = _whole(np.array(second if part % 2 else first) * light)
                pen.line([x + a, y + row, x + b, y + row], fill=colour, width=1)
        foot = y + radius * 1.62
        for side in (-1, 1):
            pen.line([x + side * radius * 0.12, y + radius * 1.28, x + side * radius * 0.1, foot], fill=(70, 60, 50))
        pen.rectangle([x - radius * 0.13, foot, x + radius * 0.13, foot + radius * 0.2], fill=(112, 74, 40))
    return drawn


SCENES: dict[str, Callable[[Rng], Image.Image]] = {
    "balloons": _balloons,
    "cities": _city,
    "deserts": _desert,
    "flowers": _flowers,
    "forests": _forest,
    "mountains": _mountains,
    "planets": _planets,
    "seas": _sea,
}
