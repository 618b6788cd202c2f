"""What is painted on the face: mouth, eyes, brows, mustache, eyeglasses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flbench.synthetic.fields import Fields, Window, bump, colour, inside, ridge, smoothstep, superellipse
from flbench.synthetic.scene import (
    GLASSES,
    LEFT_BROW,
    LEFT_EYE,
    LOWER_LIP,
    MOUTH,
    RIGHT_BROW,
    RIGHT_EYE,
    UPPER_LIP,
    Scene,
)
from flbench.synthetic.skin import SIDES


def paint_mouth(scene: Scene) -> None:
    """Paint lips, and teeth if the face smiles."""
    mouth, smile, soft = scene.identity.mouth, scene.smile, scene.soft
    width = mouth.width * (1 + 0.20 * smile)
    window = scene.frame.window(0, mouth.y, width * 1.15, 0.11)
    f, diffuse = scene.fields.crop(window), scene.diffuse[window]
    t = f.uf / width
    round_off = t.square().neg_().add_(1).clamp_(min=0)
    bend = (mouth.bend * (1 - smile) - 0.036 * smile) * t.square()
    line = f.vf - mouth.y - bend - 0.010 * smile
    opening = 0.050 * smile * round_off
    top, bottom = line + opening * 0.35, line - opening * 0.65
    upper = mouth.upper * round_off.pow(0.75) * (1 - 0.26 * ridge(t, 0.13)) * (1 - 0.25 * smile) * (1 - 0.3 * scene.old)
    lower = mouth.lower * round_off.pow(0.95) * (1 - 0.15 * smile)
    across = inside((t.abs() - 1) * width, soft)
    if smile:
        _paint_teeth(scene, f, window, t, (top / (opening + 1e-4)), inside(-top, soft) * inside(bottom, soft) * across)
    lip, texture = _lip_colour(scene), 1 + 0.05 * f.tiny
    share = (top / (upper + 1e-4)).abs_().clamp_(0, 1)
    paint = lip * scene.light_colour * ((0.38 + 0.52 * diffuse * (0.75 + 0.35 * share)) * texture)
    scene.canvas.paint(paint, inside(-top - upper, soft) * inside(top, soft) * across * 0.88, window, UPPER_LIP)
    highlight = 0.06 * ridge(bottom / (lower + 1e-4) - 0.42, 0.25) * ridge(t, 0.5)
    paint = lip * scene.light_colour * ((0.60 + 0.50 * diffuse) * texture) + highlight
    scene.canvas.paint(paint, inside(-bottom, soft) * inside(bottom - lower, soft) * across * 0.88, window, LOWER_LIP)
    seam = 0.5 * (ridge(top, 0.004) + 0.7 * ridge(bottom, 0.004)) if smile else ridge(line, 0.006)
    scene.canvas.paint(scene.tone * colour((0.20, 0.10, 0.10)), (seam * across * 0.8).clamp_(0, 1), window)
    for side in SIDES:
        corner = ((f.uf - side * width) / 0.016).square_() + ((f.vf - mouth.y - bend) / 0.012).square_()
        scene.canvas.paint(scene.tone * 0.3, bump(corner * 2) * 0.45, window)
    shadow = 0.30 * ridge(bottom - lower - 0.016, 0.014) * smoothstep(0.8, 0.2, t.abs())
    scene.canvas.paint(scene.tone * 0.45, shadow, window)


def _paint_teeth(scene: Scene, f: Fields, window: Window, t: Tensor, depth: Tensor, alpha: Tensor) -> None:
    """Paint the teeth: brighter in the middle, dark gaps, darker towards the lower lip."""
    gaps = ridge((f.uf + 0.011).remainder(0.026) - 0.013, 0.003)
    amount = (0.55 + 0.45 * (1 - t.square())) * (1 - 0.28 * gaps) * (1 - 0.45 * smoothstep(0.3, 1.0, depth))
    scene.canvas.paint(colour((0.80, 0.77, 0.70)) * scene.identity.light.key * 0.95 * amount, alpha, window, MOUTH)


def _lip_colour(scene: Scene) -> Tensor:
    makeup = (1 - scene.male) * (0.35 + 0.65 * scene.identity.mouth.makeup)
    return scene.tone * (colour((0.92, 0.66, 0.66)) * (1 - makeup) + colour((0.98, 0.33, 0.36)) * makeup)


def paint_eyes(scene: Scene) -> None:
    """Paint both eyes: eyeball, iris, pupil, catch light, lashes and creases."""
    eyes = scene.identity.eyes
    for side, label in ((-1, LEFT_EYE), (1, RIGHT_EYE)):
        window = scene.frame.window(side * eyes.x, eyes.y, eyes.width * 1.25, 0.085)
        _paint_eye(scene, window, side, label)


def _paint_eye(scene: Scene, window: Window, side: int, label: int) -> None:
    eyes, soft, canvas = scene.identity.eyes, scene.soft, scene.canvas
    f = scene.fields.crop(window)
    du = f.uf - side * eyes.x
    dv = f.vf - eyes.y + eyes.tilt * 0.55 * side * du
    t = du / eyes.width
    almond = t.square().neg_().add_(1).clamp_(min=0)
    lid = dv + eyes.height * (1 - 0.22 * scene.smile - 0.20 * scene.old) * almond.pow(0.70) * (1 - 0.16 * side * t)
    lower = dv - eyes.height * 0.66 * (1 - 0.25 * scene.smile) * almond.pow(0.7)
    opening = inside(-lid, soft) * inside(lower, soft) * inside((t.abs() - 1) * eyes.width, soft)
    lid_shadow = ridge(lid, 0.020)
    white = (0.40 + 0.60 * almond) * (1 - 0.55 * lid_shadow) * (0.75 + 0.25 * scene.diffuse[window])
    canvas.paint(colour((0.54, 0.48, 0.45)) * scene.identity.light.key * white, opening, window, label)
    _paint_iris(scene, f, window, du, dv, opening, lid_shadow)
    along = smoothstep(1.12, 0.95, t.abs())
    lash = ridge(lid, 0.0065 + 0.0035 * (1 - scene.male)) * along * (0.80 + 0.15 * (1 - scene.male))
    canvas.paint(scene.tone * 0.07, lash.clamp_(0, 1), window)
    canvas.paint(scene.tone * 0.35, ridge(lower, 0.005) * along * 0.40, window)
    crease = ridge(lid + 0.019 + 0.004 * scene.old, 0.007) * along
    canvas.paint(scene.tone * 0.33, crease * (0.42 + 0.2 * scene.old), window)
    corner = (du + side * eyes.width * 0.93).mul_(1 / 0.010).square_() + dv.mul(1 / 0.008).square_()
    canvas.paint(scene.tone * colour((0.8, 0.5, 0.5)), bump(corner * 2) * 0.6, window)


def _iris_colour(scene: Scene) -> Tensor:
    eyes = scene.identity.eyes
    light_skin = scene.identity.skin.melanin < 0.55
    if eyes.iris < 0.55 or not light_skin:
        return colour((0.075, 0.034, 0.014)) * eyes.iris_value
    return colour((0.09, 0.16, 0.24) if eyes.iris < 0.8 else (0.10, 0.13, 0.06)) * eyes.iris_value


def _paint_iris(
    scene: Scene, f: Fields, window: Window, du: Tensor, dv: Tensor, opening: Tensor, lid_shadow: Tensor
) -> None:
    """Paint the iris with a dark rim and brighter lower half, the pupil and the reflection of the light."""
    radius = 0.0365
    x = du - 0.03 * scene.identity.eyes.gaze - 0.02 * scene.identity.pose.yaw
    y = dv + 0.006
    distance = (x.square() + y.square()).sqrt_()
    value = (1 + 0.4 * smoothstep(-0.2 * radius, 0.8 * radius, y) + 0.10 * f.grain.clamp(-1, 1)) * (
        1 - 0.6 * smoothstep(0.75 * radius, radius, distance)
    )
    value *= 1 - 0.5 * lid_shadow
    scene.canvas.paint(_iris_colour(scene) * value, inside(distance - radius, scene.soft) * opening, window)
    scene.canvas.paint(colour((0.006, 0.006, 0.006)), inside(distance - radius * 0.40, scene.soft) * opening, window)
    glint = (x - 0.018 * scene.identity.light.x).mul_(1 / 0.0085).square_() + (y + 0.012).mul_(1 / 0.0085).square_()
    scene.canvas.paint(colour((0.95, 0.95, 0.95)), bump(glint * 2) * opening * 0.9, window)


def paint_brows(scene: Scene) -> None:
    """Paint both eyebrows as short slanted strokes."""
    eyes = scene.identity.eyes
    brow = scene.hair * (0.24 + 0.10 * scene.old) + scene.tone * colour((0.08, 0.055, 0.045))
    for side, label in ((-1, LEFT_BROW), (1, RIGHT_BROW)):
        centre_v = eyes.y - eyes.brow_height + 0.016 * scene.male
        window = scene.frame.window(side * (eyes.x + 0.005), centre_v, 0.125, 0.06)
        f = scene.fields.crop(window)
        along = (f.uf * side - eyes.x - 0.005) / 0.118
        arch = 0.75 * eyes.brow_arch * (1.15 - 0.5 * scene.male) * (1 - (along - 0.15).square_())
        arch -= eyes.brow_tilt * along
        thickest = eyes.brow_thickness * (0.80 + 0.65 * scene.male) * (1 - 0.22 * scene.old)
        thickness = thickest * (1 - 0.55 * smoothstep(-0.1, 1.05, along))
        strokes = 0.3 * torch.sin((f.uf * side + 0.9 * f.vf) * 170 + 3 * f.small) + 0.4 * f.grain
        across = (f.vf - centre_v + arch).abs_() / thickness - 0.55 + 0.25 * strokes
        alpha = smoothstep(1.25, -0.15, across) * smoothstep(1.05, 0.80, along.abs()) * (0.86 - 0.26 * scene.old)
        scene.canvas.paint(brow * scene.light_colour * (1 + 0.25 * strokes), alpha.clamp_(0, 1), window, label)


def paint_mustache(scene: Scene) -> None:
    """Paint a mustache between nose and upper lip, if the attribute is set."""
    if not scene.attributes.mustache:
        return
    mouth, base = scene.identity.mouth, scene.nose_tip + 0.052
    window = scene.frame.window(0, mouth.y - 0.03, 0.20 * mouth.mustache_width, 0.11)
    f = scene.fields.crop(window)
    t = f.uf / (0.150 * mouth.mustache_width)
    lower = mouth.y - mouth.upper * 0.35 + 0.034 * mouth.mustache_height * t.square()
    strokes = 0.5 * torch.sin((f.uf.abs() * 1.6 + f.vf * 0.4) * 330 + 4 * f.small) + 0.5 * f.grain
    upper_edge = smoothstep(-0.014, 0.012, f.vf - base - 0.010 - 0.040 * t.abs().pow_(1.5) + 0.005 * strokes)
    lower_edge = smoothstep(0.014, -0.006, f.vf - lower + 0.005 * strokes)
    alpha = upper_edge * lower_edge * smoothstep(1.08, 0.70, t.abs()) * 0.95
    hair = _mustache_colour(scene)
    paint = hair * scene.light_colour * 0.95 * (1 + 0.32 * strokes).clamp_(0.3, 1.8)
    scene.canvas.paint(paint, alpha, window)


def _mustache_colour(scene: Scene) -> Tensor:
    """Return the albedo (3, 1, 1): that of the hair, made darker where it would not stand out from the skin."""
    hair, tone = scene.hair * 0.55, float(scene.tone.mean())
    contrast = float(hair.mean()) / tone
    return hair if contrast < 0.22 or contrast > 3.0 else hair * (0.22 / contrast)


def paint_eyeglasses(scene: Scene) -> None:
    """Paint frame, lenses, reflections and the shadow of the frame, if the attribute is set."""
    if not scene.attributes.eyeglasses:
        return
    eyes, worn, soft = scene.identity.eyes, scene.identity.surroundings, scene.soft
    window = scene.frame.window(0, eyes.y, scene.head_width * 1.05, worn.frame_height + 0.06)
    f, head = scene.fields.crop(window), scene.head[window]
    thickness, half_width = worn.frame_thickness, worn.frame_width
    # Both lenses at once: the distance to the nearer eye is taken by mirroring the face.
    mirrored = f.uf.abs() - eyes.x - 0.004
    radius = superellipse(mirrored, f.vf - eyes.y - 0.012, half_width, worn.frame_height, worn.frame_squareness)
    rim_distance = (radius - 1) * worn.frame_height
    lens = inside(rim_distance, soft)
    rim = inside(rim_distance.abs() - thickness, soft)
    temple = inside((f.vf - eyes.y + 0.03).abs_() - thickness * 0.8, soft)
    temple *= inside(half_width - mirrored, soft) * inside(f.u.abs() - scene.head_width, soft)
    bridge = inside((f.vf - eyes.y + 0.012 - 1.5 * f.uf.square()).abs_() - thickness * 0.8, soft)
    bridge *= inside(mirrored + half_width - 0.002, soft)
    rim = torch.maximum(rim, torch.maximum(temple, bridge))
    shadow = F.avg_pool2d(rim[None, None], 5, 1, 2)[0, 0].roll(max(1, scene.frame.size // 48), 0)
    scene.canvas.darken((1 - 0.30 * shadow * head) * (1 - 0.08 * lens), window)
    streak = ridge(mirrored * 0.8 + (f.vf - eyes.y) * 1.1 + 0.02, 0.03)
    scene.canvas.paint(colour((1.0, 1.0, 1.0)), lens * (0.03 + 0.08 * streak), window)
    # A dark frame would be lost on dark skin.
    dull = (0.012, 0.012, 0.012) if worn.frame_colour < 0.65 else (0.055, 0.022, 0.010)
    frame = colour(dull if float(scene.tone.mean()) > 0.18 else (0.46, 0.36, 0.20))
    paint = frame * (1 + 0.6 * scene.diffuse[window]) + 0.02 * smoothstep(0.2, -0.3, f.vf - eyes.y)
    scene.canvas.paint(paint, rim, window)
    scene.canvas.classes[window].masked_fill_(torch.maximum(lens, rim) > 0.5, GLASSES)
