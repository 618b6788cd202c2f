"""The face as a lit height field: skull, brow ridge, sockets, nose, cheeks, chin, folds and wrinkles."""

from __future__ import annotations

import torch
from torch import Tensor

from flbench.synthetic.fields import Fields, Window, bump, colour, inside, ridge, smoothstep, superellipse
from flbench.synthetic.scene import NOSE, SKIN, Scene

SIDES = (-1, 1)


class _Relief:
    """A field on the head's window to which bells are added, each computed in its own small window only."""

    def __init__(self, scene: Scene, window: Window, f: Fields, base: Tensor) -> None:
        self._scene, self._window, self._f, self.values = scene, window, f, base

    def add(self, amount: float, u: float, v: float, deviation_u: float, deviation_v: float) -> None:
        """Add `amount` times a bell around the feature point (u, v)."""
        rows, columns = self._scene.frame.window(u, v, 3 * deviation_u, 3 * deviation_v)
        top, left = self._window[0].start, self._window[1].start
        rows = slice(max(rows.start - top, 0), max(rows.stop - top, 0))
        columns = slice(max(columns.start - left, 0), max(columns.stop - left, 0))
        du = (self._f.uf[rows, columns] - u).mul_(1 / deviation_u)
        dv = (self._f.vf[rows, columns] - v).mul_(1 / deviation_v)
        self.values[rows, columns] += bump(du.square_().add_(dv.square_())).mul_(amount)


def paint_face(scene: Scene) -> None:
    """Paint the bare face: shape, light, albedo, shadows; leaves `scene.diffuse` and `scene.head` for the features."""
    width, skull = scene.head_width, scene.identity.shape.skull
    middle, half = (scene.chin - skull) / 2, (scene.chin + skull) / 2
    window = scene.frame.window(0, middle, width * 1.03, half * 1.02, feature=False)
    f = scene.fields.crop(window)
    radius = _head_radius(scene, f)
    diffuse, gloss = scene.shade(_height(scene, window, f))
    light = scene.identity.light
    albedo = _albedo(scene, window, f, radius)
    scatter = (1 - (diffuse - 0.35).abs_().mul_(2)).clamp_(0, 1)
    open_sky = _occlusion(scene, window, f, radius)
    lit = scene.light_colour * (diffuse * 0.86 * open_sky) + scene.fill_colour * (light.ambient * open_sky)
    edge = smoothstep(0.80, 0.99, radius) * smoothstep(0.05, 0.35, f.u * (1 if light.rim_side > 0 else -1))
    shine = _shine(scene, window, f, gloss) + 0.30 * light.rim * edge * (0.4 + scene.tone.mean())
    paint = albedo * (lit + colour((0.11, 0.04, 0.02)) * scatter) + scene.light_colour * shine
    coverage = inside((radius - 1) * width, scene.soft)
    scene.canvas.paint(paint, coverage, window, SKIN)
    scene.diffuse[window] = diffuse
    scene.head[window] = coverage
    _paint_nose(scene)


def _head_radius(scene: Scene, f: Fields) -> Tensor:
    """Return the radius of the head's outline: an ellipse above, a tapering jaw below; one on the outline."""
    shape = scene.identity.shape
    # The chin stands out of a turned head, so that the far cheek is narrower than the near one.
    u = f.u - 0.030 * scene.identity.pose.yaw * smoothstep(-0.15, 0.5, f.v)
    upper = superellipse(u, f.v, scene.head_width, shape.skull, 2.3)
    taper = 1 - (shape.taper - 0.06 * scene.male) * smoothstep(0.10, 0.56, f.v)
    jowl = 0.055 * scene.old * bump(((f.v - 0.43) / 0.07).square_())
    lower = superellipse(u / (taper + jowl), f.v, scene.head_width, scene.chin, shape.jaw + 0.45 * scene.male)
    return torch.where(f.v < 0, upper, lower)


def _height(scene: Scene, window: Window, f: Fields) -> Tensor:
    """Return the height of the face above the picture plane, in head units."""
    identity, smile, old = scene.identity, scene.smile, scene.old
    eyes, shape, mouth = identity.eyes, identity.shape, identity.mouth
    tip, nose, eye_x, eye_y = scene.nose_tip, scene.nose_width, eyes.x, eyes.y
    vertical = f.v.clamp(max=0).mul_(1 / shape.skull) + f.v.clamp(min=0).mul_(1 / scene.chin)
    dome = 1 - 0.88 * f.u.mul(1 / scene.head_width).square_() - 0.70 * vertical.square_()
    relief = _Relief(scene, window, f, 0.50 * dome.clamp_(min=1e-3).sqrt_())
    _add_bridge(scene, relief.values, f)
    at = scene.nose_u
    relief.add(shape.nose_height * 0.026, at, tip - 0.002, 0.042, 0.040)
    for side in SIDES:
        relief.add(0.019, at + side * nose * 0.74, tip + 0.010, nose * 0.30, 0.025)
        relief.add(-0.042, side * eye_x * 0.96, eye_y - 0.005, 0.075, 0.045)
        relief.add(0.014 + 0.020 * scene.male, side * eye_x, eye_y - eyes.brow_height + 0.012, 0.10, 0.03)
        relief.add(
            (0.028 + 0.020 * smile) * shape.cheek, side * (eye_x + 0.05), eye_y + 0.20 - 0.02 * smile, 0.095, 0.075
        )
        relief.add(-0.007 * (shape.cheek + 1.8 * old), side * 0.25, 0.30, 0.07, 0.09)
        relief.add(0.022 * old, side * 0.24, 0.44, 0.06, 0.05)
        relief.add(0.014 * old, side * eye_x, eye_y + 0.060, 0.055, 0.020)
        relief.add(-(0.004 + 0.014 * old), side * eye_x, eye_y + 0.092, 0.06, 0.012)
        _add_side_folds(scene, relief.values, f, side)
    relief.add(0.022, 0, mouth.y, mouth.width * 0.75, 0.055)
    relief.add(-0.010, 0, mouth.y - 0.062, 0.016, 0.03)
    relief.add(-0.016, 0, mouth.y + 0.085, 0.09, 0.018)
    relief.add(0.024, 0, mouth.y + 0.16, 0.07, 0.05)
    height = relief.values
    if old:
        height -= 0.0045 * _wrinkles(scene, f)
    return height.add_((0.0005 + 0.0007 * old) * f.tiny).add_(0.0009 * f.small)


def _wrinkles(scene: Scene, f: Fields) -> Tensor:
    """Return the depth (h, w), about 0 to 1, of the wrinkles of age: forehead, brows, eye corners, mouth corners."""
    identity, side = scene.identity, f.uf.abs()
    eyes, mouth = identity.eyes, identity.mouth
    depth = torch.zeros_like(f.uf)
    across = smoothstep(0.30, 0.14, side) * (0.8 + 0.3 * f.small)
    for line in range(4):
        centre = eyes.y - eyes.brow_height - 0.055 - 0.042 * line
        depth += ridge(f.vf - centre - 0.010 * f.medium - 0.22 * f.uf.square(), 0.009) * across
    depth += 0.8 * ridge(side - 0.028 - 0.1 * (f.vf - eyes.y), 0.008) * bump(((f.vf - eyes.y + 0.09) / 0.028).square_())
    outward = side - eyes.x
    fan = smoothstep(0.085, 0.105, outward) * smoothstep(0.19, 0.13, outward)
    for crease in (-1, 0, 1):
        depth += fan * ridge(f.vf - eyes.y - crease * (0.022 + 0.45 * (outward - 0.09)), 0.008)
    corner = side - mouth.width - 0.022 - 0.16 * (f.vf - mouth.y)
    below = f.vf - mouth.y
    depth += 0.55 * ridge(corner, 0.018) * smoothstep(-0.01, 0.04, below) * smoothstep(0.15, 0.07, below)
    return depth.clamp_(0, 1.2)


def _add_bridge(scene: Scene, height: Tensor, f: Fields) -> None:
    """Add the ridge of the nose, growing and widening towards the tip."""
    below = f.vf - scene.nose_tip
    grow = smoothstep(-0.21, -0.05, below) * smoothstep(0.05, -0.012, below) * smoothstep(-0.24, 0.02, below)
    width = 0.030 + 0.33 * scene.nose_width * smoothstep(-0.20, 0.03, below)
    centre = scene.nose_u * smoothstep(-0.22, 0.0, below)
    height += scene.identity.shape.nose_height * 0.098 * grow * bump(((f.uf - centre) / width).square_())


def _add_side_folds(scene: Scene, height: Tensor, f: Fields, side: int) -> None:
    """Cut the fold from nose to mouth and the crow's feet of one side."""
    smile, old, eyes = scene.smile, scene.old, scene.identity.eyes
    below = f.vf - scene.nose_tip
    line = f.uf * side - scene.nose_width * 1.15 - 0.35 * (1 + 0.45 * smile) * below.clamp(min=0)
    depth = (0.006 + 0.014 * smile + 0.016 * old) * scene.identity.shape.fold
    height -= depth * ridge(line, 0.022) * smoothstep(-0.03, 0.04, below) * smoothstep(0.17, 0.07, below)
    if smile:
        outward = f.uf * side - eyes.x
        fan = smoothstep(0.085, 0.105, outward) * smoothstep(0.185, 0.13, outward) * 0.0012
        for crease in (-1, 0, 1):
            height -= fan * ridge(f.vf - eyes.y - crease * (0.03 + 0.45 * (outward - 0.09)), 0.008)


def _albedo(scene: Scene, window: Window, f: Fields, radius: Tensor) -> Tensor:
    """Return the colour of the skin (3, h, w): blush, mottling, freckles, stubble, rings under the eyes."""
    identity, old = scene.identity, scene.old
    eyes, skin = identity.eyes, identity.skin
    red = _Relief(scene, window, f, torch.zeros_like(f.u))
    rings = _Relief(scene, window, f, torch.zeros_like(f.u))
    red.add(0.12 * skin.blush, scene.nose_u, scene.nose_tip, 0.05, 0.04)
    for side in SIDES:
        red.add((0.10 + 0.08 * (1 - scene.male)) * skin.blush, side * (eyes.x + 0.06), eyes.y + 0.19, 0.08, 0.06)
        rings.add(0.09 + 0.16 * old, side * eyes.x, eyes.y + 0.075, 0.06, 0.022)
        rings.add(0.05 + 0.05 * scene.male, side * (eyes.x - 0.07), eyes.y + 0.01, 0.03, 0.04)
    mottled = 1 + 0.028 * f.small + 0.020 * f.tiny + (0.010 + 0.010 * old) * f.grain + 0.02 * f.medium
    spots = smoothstep(1.3, 2.0, f.tiny + 0.25 * f.grain) * (0.10 * skin.freckles + 0.08 * old)
    mottled *= (1 - spots) * (1 - rings.values)
    if old:
        mottled *= 1 - 0.44 * _wrinkles(scene, f)
    albedo = scene.tone * (1 - colour((-0.05, 0.75, 0.8)) * red.values) * mottled
    if scene.attributes.male:
        albedo *= 1 - colour((1.0, 0.93, 0.88)) * _beard(scene, f, radius)
    return albedo


def _beard(scene: Scene, f: Fields, radius: Tensor) -> Tensor:
    """Return how much light the beard takes (h, w): a shadow on most men, a full beard on some."""
    skin, mouth = scene.identity.skin, scene.identity.mouth
    full = skin.beard > 0.80
    cheek = 0.16 + 0.55 * (f.uf.abs() - 0.40).clamp(max=0).abs() - 0.012 * f.medium
    area = smoothstep(-0.03, 0.05, f.vf - cheek)
    lips = superellipse(f.uf / (mouth.width * 1.02), (f.vf - mouth.y - 0.005) / 0.068, 1, 1, 2)
    area *= smoothstep(0.85, 1.15, lips)
    lip_shadow = 0.35 * bump((f.uf / 0.10).square_() + ((f.vf - scene.nose_tip - 0.095) / 0.022).square_())
    area = torch.maximum(area * smoothstep(0.30, 0.55, radius), lip_shadow)
    strength = 0.62 if full else 0.14 + 0.26 * skin.stubble
    return (strength * area * (1 + 0.14 * f.grain.clamp(-1, 1) + 0.12 * f.tiny)).clamp_(0, 0.85)


def _occlusion(scene: Scene, window: Window, f: Fields, radius: Tensor) -> Tensor:
    """Return how much light is left (h, w) at the rim, in the sockets, below and beside the nose."""
    eyes, light, tip = scene.identity.eyes, scene.identity.light, scene.nose_tip
    dark = _Relief(scene, window, f, 0.32 * smoothstep(0.74, 1.0, radius))
    for side in SIDES:
        dark.add(0.24, side * eyes.x * 0.93, eyes.y - 0.035, 0.065, 0.03)
    dark.add(0.20, scene.nose_u - 0.03 * light.x, tip + 0.052, scene.nose_width * 0.80, 0.016)
    strength = min(max((abs(light.x) - 0.1) / 0.6, 0.0), 1.0)
    away = -1 if light.x > 0 else 1
    dark.add(0.24 * strength, scene.nose_u + away * scene.nose_width * 1.05, tip - 0.04, 0.03, 0.08)
    return dark.values.neg_().add_(1)


def _shine(scene: Scene, window: Window, f: Fields, gloss: Tensor) -> Tensor:
    """Return the specular reflection (h, w): two lobes, strongest on nose and forehead, or on a bald crown."""
    g8 = gloss.pow(8)
    lobes = 0.07 * g8 * g8 * g8 + 0.035 * g8
    oil = _Relief(scene, window, f, torch.full_like(f.u, 0.45))
    oil.add(0.9, scene.nose_u, scene.nose_tip - 0.02, 0.05, 0.08)
    oil.add(0.5, 0, -0.28, 0.2, 0.09)
    if scene.attributes.bald:
        oil.add(0.9, 0, -0.5, 0.22, 0.12)
    strength = (0.45 + 0.8 * float(scene.tone.mean())) * scene.identity.skin.oil
    return lobes * oil.values * (1 + 0.15 * f.tiny) * strength


def _paint_nose(scene: Scene) -> None:
    """Mark the nose in the parsing map and paint nostrils and wings."""
    tip, width = scene.nose_tip, scene.nose_width
    window = scene.frame.window(scene.nose_u, tip - 0.07, width * 1.5 + 0.03, 0.15)
    f, head = scene.fields.crop(window), scene.head[window]
    below = f.vf - tip
    uf = f.uf - scene.nose_u * smoothstep(-0.22, 0.0, below)
    outline = uf.abs() - 0.028 - (width - 0.02) * smoothstep(-0.16, 0.0, below)
    lower = below - 0.045 + 0.5 / width * uf.square()
    nose = (outline < 0) & (lower < 0) & (f.vf > scene.identity.eyes.y + 0.01) & (head > 0.5)
    scene.canvas.classes[window].masked_fill_(nose, NOSE)
    for side in SIDES:
        hole = ((uf - side * width * 0.44) / (width * 0.24)).square_() + (below - 0.034).mul_(1 / 0.0105).square_()
        scene.canvas.paint(scene.tone * colour((0.21, 0.13, 0.11)), bump(hole * 2) * 0.85 * head, window)
        wing = ((uf - side * width * 1.03) / 0.012).square_() + (below - 0.012).mul_(1 / 0.028).square_()
        scene.canvas.paint(scene.tone * 0.30, bump(wing * 2) * 0.30 * head, window)
