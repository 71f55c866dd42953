"""Faces: what one has (its attributes, in CelebA's names) apart from how it is built (its geometry).

The geometry comes from the face's seed alone, so that a face rendered again with one attribute changed
differs in that attribute and in nothing else: that is where the exact ground truth of an edit comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocols.world.backdrops import BACKDROPS, paint_backdrop
from protocols.world.canvas import BLACK, WHITE, Canvas, Color, Field, Size, cut, f32, merge, rgb, union, wave
from protocols.world.materials import textured

HAIR_COLORS: dict[str, Color] = {
    "black": rgb(34, 30, 34),
    "blond": rgb(238, 198, 92),
    "brown": rgb(122, 68, 34),
    "gray": rgb(158, 160, 168),
}
SKINS: tuple[Color, ...] = (rgb(252, 218, 194), rgb(228, 176, 134), rgb(174, 118, 82), rgb(112, 72, 50))
STYLES: dict[bool, tuple[str, ...]] = {True: ("short", "quiff", "bald"), False: ("long", "ponytail", "curly")}
MOUTHS: tuple[str, ...] = ("neutral", "smile", "open")
HATS: tuple[str, ...] = ("beanie", "cap", "top hat")
_FABRICS: tuple[Color, ...] = (
    rgb(206, 48, 44),
    rgb(48, 92, 206),
    rgb(50, 150, 74),
    rgb(242, 208, 60),
    rgb(128, 66, 176),
    rgb(240, 240, 240),
)
_WHISKERS: tuple[Color, ...] = (rgb(44, 32, 28), rgb(92, 54, 30))
_GOLD = rgb(250, 200, 40)
_LIPSTICK = rgb(214, 16, 50)
_LENS = rgb(216, 236, 250)
_THROAT = rgb(78, 14, 22)
_BLUSH = rgb(236, 96, 84)
_IRIS = rgb(96, 62, 34)
_TONGUE = rgb(176, 62, 66)

PART_LABELS: dict[str, int] = {
    "skin": 1,
    "nose": 2,
    "eye_g": 3,
    "l_eye": 4,
    "r_eye": 5,
    "l_brow": 6,
    "r_brow": 7,
    "l_ear": 8,
    "r_ear": 9,
    "mouth": 10,
    "u_lip": 11,
    "l_lip": 12,
    "hair": 13,
    "hat": 14,
    "ear_r": 15,
    "neck": 16,
    "cloth": 17,
}
"""CelebAMask-HQ's part names (``neck_l``, necklaces, are not drawn)."""

# fmt: off
CELEBA_ATTRIBUTES: tuple[str, ...] = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on
"""In the order of CelebA's annotation file."""

_ZOOM, _CENTER = 1.40, (32.0, 29.0)


@dataclass(frozen=True)
class Face:
    """The attributes of one face, and the seed of its geometry."""

    seed: int
    male: bool
    style: str
    hair: str
    skin: int
    mouth: str = "neutral"
    eyeglasses: bool = False
    hat: bool = False
    earrings: bool = False
    lipstick: bool = False
    beard: bool = False
    backdrop: str = "room"

    def attributes(self) -> dict[str, bool]:
        """CelebA's 40 attributes. Those that are not drawn are False (everybody is young)."""
        shown = self.style != "bald"
        true = {
            "Male": self.male,
            "Young": True,
            "Bald": not shown,
            **{f"{c.title()}_Hair": shown and self.hair == c for c in HAIR_COLORS},
            "Eyeglasses": self.eyeglasses,
            "Wearing_Hat": self.hat,
            "Wearing_Earrings": self.earrings,
            "Wearing_Lipstick": self.lipstick,
            "Smiling": self.mouth == "smile",
            "Mouth_Slightly_Open": self.mouth == "open",
            "No_Beard": not self.beard,
            "Pale_Skin": self.skin == 0,
        }
        return {name: true.get(name, False) for name in CELEBA_ATTRIBUTES}

    def with_claim(self, attribute: str, value: str) -> Face:
        """The same face with one promise of an edit kept. Raises ValueError for what cannot be drawn."""
        on = value == "yes"
        match attribute:
            case "hair_color":
                return replace(self, hair=value)
            case "mouth":
                return replace(self, mouth=value)
            case "background":
                return replace(self, backdrop=value)
            case "Eyeglasses":
                return replace(self, eyeglasses=on)
            case "Wearing_Hat":
                return replace(self, hat=on)
            case "Wearing_Earrings":
                return replace(self, earrings=on)
            case "Wearing_Lipstick":
                return replace(self, lipstick=on)
        raise ValueError(f"the mini world cannot draw {attribute}={value} on a face")


def sample_face(seed: int) -> Face:
    """A random face. The same seed gives the same face."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    male = chance(0.5)
    styles = STYLES[male]
    style = styles[int(rng.choice(3, p=(0.45, 0.37, 0.18) if male else (0.4, 0.3, 0.3)))]
    return Face(
        seed=seed,
        male=male,
        style=style,
        hair=tuple(HAIR_COLORS)[int(rng.integers(4))],
        skin=int(rng.integers(4)),
        mouth=MOUTHS[int(rng.choice(3, p=(0.4, 0.35, 0.25)))],
        eyeglasses=chance(0.25),
        hat=chance(0.22),
        earrings=chance(0.25),
        lipstick=chance(0.4) and not male,
        beard=chance(0.35) and male,
        backdrop=BACKDROPS[int(rng.integers(len(BACKDROPS)))],
    )


class _Build:
    """The geometry of one face: every number that no attribute may change."""

    def __init__(self, seed: int) -> None:
        rng = np.random.Generator(np.random.PCG64([seed, 2]))

        def u(low: float, high: float) -> float:
            return float(low + (high - low) * rng.random())

        self.cx, self.cy = 32 + u(-1.5, 1.5), 31 + u(-1.0, 1.2)
        self.rx, self.ry = u(11.8, 13.6), u(14.6, 16.4)
        self.light = (u(-0.6, 0.6), u(-0.6, -0.2))
        self.eye_dx = u(0.40, 0.45) * self.rx
        self.eye_y = self.cy + u(-1.2, 0.3)
        self.eye = u(2.2, 2.6)
        self.mouth_w = u(0.50, 0.58) * self.rx
        self.side = 1 if u(-1, 1) > 0 else -1
        self.hair_length = u(0, 5)
        self.hair_tone = u(-0.03, 0.03)
        self.skin_tone = u(-0.03, 0.03)
        self.brow_tilt = u(-0.3, 0.3)
        self.fabric = _FABRICS[int(rng.integers(len(_FABRICS)))]
        self.hat_kind = HATS[int(rng.integers(len(HATS)))]
        self.hat_color = _FABRICS[int(rng.integers(len(_FABRICS)))]
        self.whiskers = _WHISKERS[int(rng.integers(len(_WHISKERS)))]
        self.noise = [int(k) for k in rng.integers(16, size=6)]
        self.jitter = [u(-1, 1) for _ in range(16)]
        self.horizon = 34 + u(-3, 3)
        self.draws = tuple(u(-1, 1) for _ in range(8))


def render_face(
    face: Face, size: Size = 64, detail: bool = False
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
    """Draw a face in the middle of an image.

    Returns the image, uint8 (height, width, 3), and CelebAMask-HQ's part masks, bool (height, width) each. Parts that
    do not show are left out, but eyes stay annotated behind glasses, as they are in CelebAMask-HQ.

    ``detail``: with textures and small marks, which fade out towards 64 px. Masks are the same without them.
    """
    b = _Build(face.seed)
    back = Canvas(size, detail=detail)
    paint_backdrop(back, face.backdrop, b.horizon, b.draws, b.light[0])
    canvas = Canvas(size, _ZOOM, _CENTER, detail)
    canvas.image = back.image
    eyes = _paint(canvas, face, b)
    parts = {name: canvas.labels == label for name, label in PART_LABELS.items()}
    parts.update(eyes)
    return canvas.pixels(), {name: mask for name, mask in parts.items() if mask.any()}


def _paint(c: Canvas, face: Face, b: _Build) -> dict[str, NDArray[np.bool_]]:
    label = PART_LABELS
    skin = np.clip(SKINS[face.skin] + f32(b.skin_tone), 0, 1)
    hair = np.clip(HAIR_COLORS[face.hair] + f32(b.hair_tone), 0, 1)
    strands = c.fine(b.noise[1]) * f32(0.35)
    hair_light = (
        f32(0.98) + strands - (c.y - f32(b.cy)) * f32(0.007) + (c.x - f32(b.cx)) * f32(0.012 * b.light[0])
    )
    hair_light = textured(c, "curls" if face.style == "curly" else "hair", hair_light)
    _paint_back_hair(c, face, b, hair, hair_light)
    _paint_body(c, b, skin)
    oval = _paint_head(c, b, skin)
    _paint_mouth(c, face, b, skin, oval, strands)
    eyes = _paint_eyes(c, face, b, skin)
    if face.style != "bald":
        _paint_front_hair(c, face, b, hair, hair_light)
    if face.earrings:
        for s in (-1, 1):
            x, y = b.cx + s * (b.rx + 1.2), b.cy + 8.2
            ring = c.part(x - 3, y - 3, x + 3, y + 3)
            ring.paint(ring.circle(x, y, 2.7), _GOLD * f32(0.72), label=label["ear_r"])
            ring.paint(ring.circle(x, y, 2.0), _GOLD, label=label["ear_r"])
            ring.glow(x - 0.6, y - 0.7, 1.3, 0.9)
    if face.eyeglasses:
        _paint_glasses(c.part(b.cx - b.rx - 2, b.eye_y - 7, b.cx + b.rx + 2, b.eye_y + 7), b)
    if face.hat:
        brim = b.cy - b.ry * 0.52
        _paint_hat(c.part(b.cx - b.rx - 8, brim - 14, b.cx + b.rx + 8, brim + 6), b)
    return eyes


def _paint_back_hair(c: Canvas, face: Face, b: _Build, hair: Color, light: Field) -> None:
    label = PART_LABELS["hair"]
    if face.style == "long":
        crown = c.ellipse(b.cx, b.cy - 2, b.rx + 4.2, b.ry + 3.2)
        fall = c.box(b.cx, b.cy + 11 + b.hair_length / 2, b.rx + 3.8, 12 + b.hair_length / 2, 5)
        c.paint(merge(crown, fall, 6), hair, light * f32(0.82), label=label)
    elif face.style == "curly":
        curls = None
        for i in range(11):
            angle = 3.6 - i * 4.05 / 10
            cos, sin = round(float(np.cos(angle)), 6), round(float(np.sin(angle)), 6)
            curl = c.circle(b.cx + cos * (b.rx + 2), b.cy - 2 - sin * (b.ry + 0.5), 4.8 + b.jitter[i] * 0.5)
            curls = curl if curls is None else np.minimum(curls, curl)
        assert curls is not None
        c.paint(curls, hair, light * f32(0.86), label=label)
    elif face.style == "ponytail":
        s = b.side
        knot = c.circle(b.cx + s * (b.rx + 1), b.cy - b.ry * 0.6, 5)
        tail = c.ellipse(b.cx + s * (b.rx + 5), b.cy + 3 + b.hair_length / 2, 4.2, 13, -s * 0.18)
        c.paint(merge(knot, tail, 4), hair, light * f32(0.86), label=label)


def _paint_body(c: Canvas, b: _Build, skin: Color) -> None:
    label = PART_LABELS
    base = b.cy + b.ry
    c = c.part(b.cx - 24, base - 4, b.cx + 24, base + 200)
    c.paint(c.box(b.cx, base + 5, 5, 8, 2), skin, textured(c, "skin", 0.80), label=label["neck"])
    folds = f32(0.95) + c.broad(b.noise[3]) * f32(0.2) + (c.x - f32(b.cx)) * f32(0.01 * b.light[0])
    # Shoulders, and the chest below them, which only tall images show.
    cloth = union(c.ellipse(b.cx, base + 17, 23, 14), c.box(b.cx, base + 117, 23, 100))
    c.paint(cloth, b.fabric, textured(c, "cloth", folds), label=label["cloth"])
    collar = np.abs(c.ellipse(b.cx, base + 3, 6.6, 4.2)) - f32(0.12)
    c.mark(collar, BLACK, alpha=0.4, on=label["cloth"])
    c.paint(c.ellipse(b.cx, base + 3, 5.6, 3.2), skin, textured(c, "skin", 0.82), label=label["neck"])


def _paint_head(c: Canvas, b: _Build, skin: Color) -> Field:
    label = PART_LABELS
    for s, ear in ((-1, "l_ear"), (1, "r_ear")):
        x = b.cx + s * (b.rx + 0.2)
        part = c.part(x - 4, b.cy - 4, x + 4, b.cy + 7)
        part.paint(part.ellipse(x, b.cy + 1.5, 3.0, 4.2), skin, 0.86 + 0.1 * s * b.light[0], label=label[ear])
        part.paint(part.ellipse(x, b.cy + 1.5, 1.5, 2.5), skin, 0.72)
        part.mark(np.abs(part.ellipse(x, b.cy + 1.5, 2.2, 3.3)) - f32(0.12), BLACK, alpha=0.25, on=label[ear])
    oval = merge(
        c.ellipse(b.cx, b.cy - 2, b.rx, b.ry - 2), c.ellipse(b.cx, b.cy + 5, b.rx * 0.78, b.ry - 5.2), 5
    )
    c.paint(oval, skin, _skin_light(c, b), label=label["skin"])
    inside = c.cover(oval)
    for s in (-1, 1):
        blush = np.clip(1 - c.circle(b.cx + s * b.rx * 0.55, b.cy + b.ry * 0.3, 0) / 5, 0, 1) * inside
        c.blend(blush, _BLUSH, alpha=0.20)
    top, tip = b.eye_y + 2, b.eye_y + b.ry * 0.16 + 3.2
    nose = c.part(b.cx - 3, top - 2, b.cx + 3, tip + 3)
    light = _skin_light(nose, b)
    nose.paint(
        nose.stroke(b.cx + 0.3, top, b.cx + 0.2, tip, 0.8), skin, light * f32(0.86), label=label["nose"]
    )
    nose.paint(nose.ellipse(b.cx, tip + 0.3, 2.3, 1.4), skin, light * f32(0.80), label=label["nose"])
    for s in (-1, 1):
        nose.mark(nose.ellipse(b.cx + s * 0.95, tip + 0.75, 0.5, 0.3), BLACK, alpha=0.5, on=label["nose"])
    nose.glow(b.cx + 0.4 * b.light[0], tip - 0.4, 0.9, 0.25 * nose.strength)
    return oval


def _skin_light(c: Canvas, b: _Build) -> Field:
    return textured(c, "skin", c.ball_light(b.cx, b.cy, b.rx + 4, b.ry + 4, b.light, 0.68, 0.46))


def _paint_mouth(c: Canvas, face: Face, b: _Build, skin: Color, oval: Field, strands: Field) -> None:
    label = PART_LABELS
    y, w = b.cy + b.ry * 0.53, b.mouth_w
    if face.beard:
        jaw = cut(
            oval - f32(0.8), c.below(b.cy + b.ry * 0.22) + (c.x - f32(b.cx)) * (c.x - f32(b.cx)) * f32(0.03)
        )
        chin = cut(c.ellipse(b.cx, b.cy + b.ry * 0.62, b.rx * 0.82, b.ry * 0.46), c.below(y - 3.6))
        whiskers = union(jaw, chin, *(c.ellipse(b.cx + s * 3, y - 3.2, 3.8, 1.8, s * 0.3) for s in (-1, 1)))
        c.paint(whiskers, b.whiskers, textured(c, "whiskers", f32(0.95) + strands), label=label["skin"])
    natural = np.clip(skin * rgb(214, 128, 128) + rgb(24, 0, 4), 0, 1)
    lip = _LIPSTICK if face.lipstick else natural
    c = c.part(b.cx - w - 4, y - 6, b.cx + w + 4, y + 8)
    rim = 0.7 if face.lipstick else 0.0
    if face.mouth == "smile":
        grin = cut(c.ellipse(b.cx, y - 1.8, w + 0.8, 6.2), c.below(y - 1.2))
        c.paint(grin - f32(0.8 + rim), lip, 0.9, label=label["l_lip"])
        c.paint(grin + f32(0.4), WHITE, label=label["mouth"])
        gaps = [c.box(b.cx + k * w / 4, y + 1, 0.09, 4) for k in range(-4, 5)]
        c.mark(union(*gaps), _THROAT, alpha=0.35, on=label["mouth"])
    elif face.mouth == "open":
        c.paint(c.ellipse(b.cx, y + 0.4, w * 0.66 + rim, 4.2 + rim), lip, label=label["l_lip"])
        c.paint(c.ellipse(b.cx, y + 0.5, w * 0.66 - 1.0, 3.0), _THROAT, label=label["mouth"])
        c.mark(c.ellipse(b.cx, y + 2.6, w * 0.40, 1.5), _TONGUE, alpha=0.8, on=label["mouth"])
    else:
        c.paint(c.stroke(b.cx - w * 0.78, y, b.cx + w * 0.78, y, 1.2 + rim), lip, label=label["l_lip"])
        c.paint(c.stroke(b.cx - w * 0.76, y, b.cx + w * 0.76, y, 0.25), lip, 0.55)
    folds = [c.box(b.cx + k * w / 7, y, 0.07, 8) for k in range(-8, 9)]
    c.mark(union(*folds), BLACK, alpha=0.14, on=label["l_lip"])


def _paint_eyes(face_canvas: Canvas, face: Face, b: _Build, skin: Color) -> dict[str, NDArray[np.bool_]]:
    label = PART_LABELS
    brow = skin * f32(0.42)  # not the hair's colour: dyeing the hair must leave the face as it was
    out: dict[str, NDArray[np.bool_]] = {}
    for s, side in ((-1, "l"), (1, "r")):
        x, y, r = b.cx + s * b.eye_dx, b.eye_y, b.eye
        c = face_canvas.part(x - 6, y - r - 6, x + 6, y + r + 2)
        c.paint(c.ellipse(x, y, r + 0.9, r * 0.88), WHITE, label=label[f"{side}_eye"])
        # Before lashes and glasses: what they cover is still annotated as the eye.
        out[f"{side}_eye"] = face_canvas.labels == label[f"{side}_eye"]
        iris = x + 0.3 * b.light[0]
        c.paint(c.circle(iris, y, r * 0.70), BLACK, label=label[f"{side}_eye"])
        eye = label[f"{side}_eye"]
        c.mark(np.abs(c.circle(iris, y, r * 0.48)) - f32(r * 0.14), _IRIS, alpha=0.9, on=eye)
        c.mark(
            cut(c.box(x, y - r * 0.8, 9, r * 0.34), c.ellipse(x, y, r + 0.9, r * 0.88)),
            skin,
            0.6,
            0.8,
            on=eye,
        )
        c.glow(x - 0.6, y - 0.6, 0.9, 0.9)
        if not face.male:
            for k in (0.2, 1.0):
                ex = x + s * (r * k + 0.6)
                c.paint(c.stroke(ex, y - r * 0.8 + k * 0.7, ex + s * 0.9, y - r - 0.9 + k, 0.32), BLACK)
        tilt = s * b.brow_tilt
        c.paint(
            c.stroke(x - 2.7, y - r - 1.7 + tilt, x + 2.7, y - r - 1.7 - tilt, 0.75 if face.male else 0.5),
            brow,
            textured(c, "whiskers"),
            label=label[f"{side}_brow"],
        )
    return out


def _paint_front_hair(c: Canvas, face: Face, b: _Build, hair: Color, light: Field) -> None:
    cap = c.ellipse(b.cx, b.cy - 2.2, b.rx + 1.8, b.ry + 0.6)
    dx = c.x - f32(b.cx)
    if face.style == "short":
        fringe = c.y - f32(b.cy - b.ry * 0.50) + dx * dx * f32(0.016) - f32(1.6)
        burns = cut(cap, f32(b.rx - 1.2) - np.abs(dx), c.above(b.cy + 0.5))
        shape = union(cut(cap, fringe), burns)
    elif face.style == "quiff":
        fringe = c.y - f32(b.cy - b.ry * 0.50) + dx * dx * f32(0.010)
        shape = cut(cap, fringe)
        tufts = () if face.hat else ((-0.7, 3.4), (-0.25, 4.4), (0.25, 4.8), (0.7, 3.6))
        for i, (k, r) in enumerate(tufts):
            tuft = c.circle(b.cx + k * b.rx, b.cy - b.ry * 0.92 + b.jitter[i] * 0.4 + abs(k) * 2, r)
            shape = np.minimum(shape, tuft)
    elif face.style == "long":
        parting = (
            c.y
            - f32(b.cy - b.ry * 0.72)
            - (dx - f32(b.jitter[0] * 2)) * (dx - f32(b.jitter[0] * 2)) * f32(0.072)
        )
        shape = cut(cap, parting)
    elif face.style == "ponytail":
        shape = cut(cap, c.y - f32(b.cy - b.ry * 0.56) + dx * dx * f32(0.012))
    else:
        ripple = wave(c.x * f32(0.14) + f32(b.jitter[1])) * f32(1.0)
        shape = cut(cap, c.y - f32(b.cy - b.ry * 0.5) + ripple)
        for i in range(7):
            k = i - 3
            curl = c.circle(b.cx + k * b.rx * 0.3, b.cy - b.ry * 0.78 + abs(k) * 1.3 + b.jitter[i] * 0.4, 3.7)
            shape = np.minimum(shape, curl)
    shine = np.clip(1 - c.ellipse(b.cx + b.light[0] * 8, b.cy - b.ry * 0.82, 7, 3) / 4, 0, 1) * f32(0.16)
    c.paint(shape, hair, light + shine, label=PART_LABELS["hair"])


def _paint_glasses(c: Canvas, b: _Build) -> None:
    label = PART_LABELS["eye_g"]
    r = b.eye + 2.3
    for s in (-1, 1):
        x = b.cx + s * b.eye_dx * 1.10
        lens = c.ellipse(x, b.eye_y + 0.3, r, r * 0.92)
        c.paint(lens + f32(0.6), _LENS, alpha=0.35)
        streak = cut(c.stroke(x - r * 0.6, b.eye_y + r, x + r * 0.2, b.eye_y - r, 0.35), lens + f32(0.8))
        c.blend(c.cover(streak), WHITE, alpha=0.4 * c.strength)
        c.labels[lens < 0.8] = label
        c.paint(np.abs(lens) - f32(0.85), BLACK, label=label)
        temple = c.stroke(x + s * r, b.eye_y, b.cx + s * (b.rx + 0.8), b.eye_y - 0.8, 0.7)
        c.paint(temple, BLACK, label=label)
    bridge = b.eye_dx * 1.10 - r
    c.paint(
        c.stroke(b.cx - bridge - 0.4, b.eye_y - 0.2, b.cx + bridge + 0.4, b.eye_y - 0.2, 0.75),
        BLACK,
        label=label,
    )


def _paint_hat(c: Canvas, b: _Build) -> None:
    label = PART_LABELS["hat"]
    color = b.hat_color
    y = b.cy - b.ry * 0.52
    light = (
        f32(0.98)
        + c.broad(b.noise[5]) * f32(0.12)
        + (c.x - f32(b.cx)) * f32(0.02 * b.light[0])
        - (c.y - f32(b.cy - b.ry)) * f32(0.010)
    )
    if b.hat_kind == "beanie":
        dome = cut(c.ellipse(b.cx, y + 1, b.rx + 3.0, b.ry * 0.68), c.above(y))
        light = textured(c, "knit", light)
        c.paint(dome, color, light + wave(c.x * f32(0.22)) * f32(0.06), label=label)
        c.paint(c.box(b.cx, y - 0.8, b.rx + 3.4, 2.4, 1.8), color, light * f32(0.78), label=label)
    elif b.hat_kind == "cap":
        dome = cut(c.ellipse(b.cx, y + 1.5, b.rx + 2.6, b.ry * 0.62), c.above(y))
        light = textured(c, "cloth", light)
        c.paint(dome, color, light, label=label)
        seams = [np.abs(c.ellipse(b.cx, y + 1.5, k * (b.rx + 2.6), b.ry * 0.62)) for k in (0.02, 0.5)]
        c.mark(union(*seams) - f32(0.1), BLACK, alpha=0.35, on=label)
        brim = c.ellipse(b.cx + b.side * 7, y - 0.6, b.rx * 0.95, 2.2, b.side * 0.08)
        c.paint(brim, color, light * f32(0.68), label=label)
    else:
        light = textured(c, "cloth", light)
        c.paint(c.box(b.cx, y - 5.4, b.rx * 0.86, 6.2, 1.2), color, light, label=label)
        c.paint(c.box(b.cx, y - 2.4, b.rx * 0.86, 1.5, 0.3), color * f32(0.4) + f32(0.06), label=label)
        c.paint(c.box(b.cx, y - 0.4, b.rx + 4.6, 1.5, 1.4), color, light * f32(0.86), label=label)
