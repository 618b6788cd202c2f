"""The parts around the face: neck, ears and jewellery."""

from __future__ import annotations

from flbench.synthetic.fields import bump, colour, inside, ridge, smoothstep, superellipse
from flbench.synthetic.scene import EARRING, LEFT_EAR, NECK, NECKLACE, RIGHT_EAR, Scene


def paint_neck(scene: Scene) -> None:
    """Paint the neck with the shadow that the chin casts on it, and perhaps a necklace."""
    identity = scene.identity
    width, old = scene.neck_width, scene.old
    window = scene.frame.window(0, 0.60, 0.75, 0.40, feature=False)
    f = scene.fields.crop(window)
    u = f.u - 0.02 * identity.pose.yaw
    flare = 0.55 * smoothstep(0.45, 0.95, f.v).square_() + 0.03 * smoothstep(0.60, 0.3, f.v)
    coverage = inside(u.abs() - width - flare, scene.soft) * inside(0.25 - f.v, scene.soft)
    height = 0.34 * u.mul(1 / (width * 1.15)).square_().neg_().add_(1).clamp_(min=0).sqrt_()
    for side in (-1, 1):
        cord = ridge(u * side - 0.15 + 0.28 * (f.v - 0.6), 0.028)
        height += (0.010 + 0.012 * old) * cord
    height += 0.016 * scene.male * bump(((u / 0.035).square_() + ((f.v - 0.76) / 0.05).square_()) * 2)
    height -= 0.006 * old * ridge(f.v - 0.72 - 0.3 * u.square(), 0.012)
    diffuse, _ = scene.shade(height)
    shadow = 1 - 0.62 * smoothstep(0.20, -0.02, f.v - scene.chin - 0.03 + 0.25 * identity.light.x * u)
    shadow *= 1 - 0.35 * smoothstep(0.75, 1.05, u.abs() / width) * smoothstep(0.75, 0.5, f.v)
    tone = scene.tone * (1 + 0.03 * f.small + 0.015 * f.grain)
    lit = scene.light_colour * (diffuse * 0.70) + scene.fill_colour * (identity.light.ambient * 0.75)
    scene.canvas.paint(tone * lit * shadow, coverage, window, NECK)
    if identity.surroundings.jewellery > 0.78 and not scene.attributes.male:
        chain = ridge(f.v - 0.655 + 0.9 * f.u.square(), 0.012) * coverage * (0.7 + 0.3 * f.grain.clamp(-1, 1))
        scene.canvas.paint(colour((0.55, 0.42, 0.18)), chain.clamp_(0, 1), window, NECKLACE)


def paint_ears(scene: Scene) -> None:
    """Paint both ears, the nearer one wider; the head is painted over their inner halves later."""
    turn, shape = scene.identity.pose.yaw, scene.identity.shape
    for side, label in ((-1, LEFT_EAR), (1, RIGHT_EAR)):
        facing = min(max(1 - 0.45 * side * turn, 0.35), 1.4)
        wide, tall = 0.052 * facing * shape.ear, 0.118 * shape.ear
        centre = side * (scene.head_width * 0.965 + (0.012 + shape.ear_out) * facing)
        window = scene.frame.window(centre, 0.03, 0.12, 0.20, feature=False)
        f = scene.fields.crop(window)
        du, dv = (f.u - centre) * side, f.v - 0.02
        # The upper half leans outwards and is broad, the lobe is narrow.
        breadth = wide * (1 - 0.42 * smoothstep(-0.02, 0.11, dv))
        radius = superellipse((du + 0.22 * dv) / breadth, dv, 1, tall, 2.2)
        coverage = inside((radius - 1) * 0.055, scene.soft)
        helix = ridge(radius - 0.84, 0.13) * smoothstep(0.09, 0.03, dv)
        groove = ridge(radius - 0.60, 0.12) * smoothstep(0.07, 0.0, dv)
        concha = bump((((du + 0.012) / (0.5 * wide)).square_() + ((dv - 0.012) / 0.035).square_()) * 1.6)
        lit = 0.62 + 0.28 * side * scene.identity.light.x + 0.18 * helix - 0.26 * groove - 0.42 * concha
        lit *= 1 - 0.30 * smoothstep(0.25 * wide, -0.6 * wide, du)
        tone = scene.tone * colour((1.0, 0.82, 0.80)) * (1 + 0.03 * f.small)
        scene.canvas.paint(tone * scene.light_colour * lit.clamp_(0.10, 1.1), coverage, window, label)
        if scene.identity.surroundings.jewellery < 0.22 and not scene.attributes.male:
            drop = bump(superellipse(du - 0.010, dv - 0.145, 0.016, 0.026, 2).square_().mul_(2))
            scene.canvas.paint(colour((0.75, 0.62, 0.35)), (drop * 1.4).clamp_(0, 1), window, EARRING)
