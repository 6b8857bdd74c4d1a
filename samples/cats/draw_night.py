#!/usr/bin/env python3
"""Paints www/night.png: a margay on her branch. Needs nothing but Python, and half a minute.

The first half is a brush: paths in the letters of SVG (M L C Z), filled with antialiasing into rows of floats.
The second half is the picture, back to front.
"""

import math
import random
import re
import struct
import zlib
from pathlib import Path

WIDTH, HEIGHT = 1600, 900  # the canvas, in the units of every number below
SCALE = 0.45  # pixels per unit: a picture of about 100 KB
ACROSS, DOWN = int(WIDTH * SCALE), int(HEIGHT * SCALE)
SUB = 4  # lines looked at per row of pixels
rows = [[[0.0, 0.0, 0.0] for _ in range(ACROSS)] for _ in range(DOWN)]
rng = random.Random(7)  # the same picture every time


# ---- the brush ------------------------------------------------------------------------------------------------

def rgb(text):
    return tuple(int(text[i:i + 2], 16) for i in (1, 3, 5))


def flatten(path):
    """The polygons of an SVG path."""
    polygons, points, tokens = [], [], re.findall(r"[MLCZ]|-?[\d.]+", path)
    letter, at = "M", 0
    while at < len(tokens):
        if tokens[at].isalpha():
            letter, at = tokens[at], at + 1
            if letter == "Z":
                continue
        count = 6 if letter == "C" else 2
        n = [float(t) for t in tokens[at:at + count]]
        at += count
        if letter == "M":
            points = [(n[0], n[1])]
            polygons.append(points)
            letter = "L"
        elif letter == "L":
            points.append((n[0], n[1]))
        else:
            (x0, y0), (x1, y1, x2, y2, x3, y3) = points[-1], n
            steps = 6 + int(math.hypot(x3 - x0, y3 - y0) / 12)
            for i in range(1, steps + 1):
                t = i / steps
                u = 1 - t
                points.append((u**3 * x0 + 3 * u * u * t * x1 + 3 * u * t * t * x2 + t**3 * x3,
                               u**3 * y0 + 3 * u * u * t * y1 + 3 * u * t * t * y2 + t**3 * y3))
    return polygons


def ellipse(cx, cy, rx, ry, turn=0.0, wobble=0.0):
    """One round polygon, a little uneven if it wobbles."""
    c, s = math.cos(turn), math.sin(turn)
    steps = max(28, int((rx + ry) / 2))
    bumps = [(rng.uniform(-wobble, wobble), rng.uniform(0, 6.3), k) for k in (2, 3, 5)] if wobble else []
    points = []
    for i in range(steps):
        a = 2 * math.pi * i / steps
        r = 1 + sum(w * math.sin(k * a + p) for w, p, k in bumps)
        x, y = rx * r * math.cos(a), ry * r * math.sin(a)
        points.append((cx + x * c - y * s, cy + x * s + y * c))
    return [points]


def stroke(points, width, end_width=None):
    """A line with round ends, as wide as `width` first and `end_width` last: circles and the quads between them."""
    end_width = width if end_width is None else end_width
    pieces, total = [], max(1, len(points) - 1)
    radius = [(width + (end_width - width) * i / total) / 2 for i in range(len(points))]
    for (x, y), r in zip(points, radius):
        pieces += ellipse(x, y, r, r)
    for (x0, y0), (x1, y1), r0, r1 in zip(points, points[1:], radius, radius[1:]):
        d = math.hypot(x1 - x0, y1 - y0) or 1
        nx, ny = -(y1 - y0) / d, (x1 - x0) / d
        pieces.append([(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1),
                       (x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)])
    return [p if area(p) > 0 else p[::-1] for p in pieces]


def area(p):
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(p, p[1:] + p[:1]))


def coverage(polygons):
    """How much of each pixel lies inside: {y: (first x, [0..1, ...])}, by the nonzero rule."""
    edges = []
    for p in flatten(polygons) if isinstance(polygons, str) else polygons:
        p = [(x * SCALE, y * SCALE) for x, y in p]
        for (x0, y0), (x1, y1) in zip(p, p[1:] + p[:1]):
            if y0 != y1:
                edges.append((y0, y1, x0, (x1 - x0) / (y1 - y0), 1) if y0 < y1 else
                             (y1, y0, x1, (x0 - x1) / (y0 - y1), -1))
    if not edges:
        return {}
    lines = {}
    for top, bottom, x, slope, way in edges:
        first = max(0, math.ceil(top * SUB - 0.5))
        last = min(DOWN * SUB, math.ceil(bottom * SUB - 0.5))
        for line in range(first, last):
            lines.setdefault(line, []).append((x + ((line + 0.5) / SUB - top) * slope, way))
    covered = {}
    for line, crossings in lines.items():
        crossings.sort()
        winding, begin = 0, 0.0
        for x, way in crossings:
            if winding == 0:
                begin = x
            winding += way
            if winding == 0 and x > 0 and begin < ACROSS:
                covered.setdefault(line // SUB, []).append((max(0.0, begin), min(float(ACROSS), x)))
    result = {}
    for y, spans in covered.items():
        low = int(min(a for a, _ in spans))
        high = min(ACROSS, int(max(b for _, b in spans)) + 1)
        change, exact = [0.0] * (high - low + 2), [0.0] * (high - low + 2)
        for a, b in spans:
            ia, ib = int(a) - low, int(b) - low
            if ia == ib:
                exact[ia] += b - a
            else:
                exact[ia] += int(a) + 1 - a
                exact[ib] += b - int(b)
                change[ia + 1] += 1
                change[ib] -= 1
        run, values = 0.0, []
        for i in range(high - low):
            run += change[i]
            values.append(min(1.0, (run + exact[i]) / SUB))
        result[y] = (low, values)
    return result


def paint(shape, colour, alpha=1.0, clip=None):
    """Fills a path, or polygons, with one colour or a function of x and y; only inside `clip` if there is one."""
    covered = coverage(shape)
    plain = rgb(colour) if isinstance(colour, str) else None
    for y, (low, values) in covered.items():
        row = rows[y]
        mask_low, mask = clip.get(y, (0, ())) if clip is not None else (0, None)
        for i, value in enumerate(values):
            if value <= 0:
                continue
            x = low + i
            if mask is not None:
                at = x - mask_low
                if not 0 <= at < len(mask):
                    continue
                value *= mask[at]
            value *= alpha
            r, g, b = plain or colour(x, y)
            p = row[x]
            p[0] += (r - p[0]) * value
            p[1] += (g - p[1]) * value
            p[2] += (b - p[2]) * value
    return covered


def glow(cx, cy, radius, colour, alpha):
    """Light that fades with the distance."""
    r, g, b = rgb(colour)
    cx, cy, radius = cx * SCALE, cy * SCALE, radius * SCALE
    for y in range(max(0, int(cy - radius)), min(DOWN, int(cy + radius))):
        for x in range(max(0, int(cx - radius)), min(ACROSS, int(cx + radius))):
            d = math.hypot(x - cx, y - cy) / radius
            if d < 1:
                a = alpha * (1 - d) ** 2
                p = rows[y][x]
                p[0] += (r - p[0]) * a
                p[1] += (g - p[1]) * a
                p[2] += (b - p[2]) * a


def between(stops):
    """A colour that changes from top to bottom."""
    stops = [(y, rgb(c)) for y, c in stops]

    def colour(_, y):
        y /= SCALE
        for (y0, c0), (y1, c1) in zip(stops, stops[1:]):
            if y <= y1:
                t = min(1.0, max(0.0, (y - y0) / (y1 - y0)))
                return tuple(a + (b - a) * t for a, b in zip(c0, c1))
        return stops[-1][1]
    return colour


def along(path):
    return flatten(path)[0]


# ---- the picture ----------------------------------------------------------------------------------------------

def sky():
    paint(f"M0 0 L{WIDTH} 0 L{WIDTH} {HEIGHT} L0 {HEIGHT} Z",
          between([(0, "#0a1233"), (330, "#1c2c63"), (620, "#3d4f86"), (900, "#5c6a94")]))
    for _ in range(190):
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, 560) ** 1.0
        r = rng.choice((0.8, 0.9, 1.1, 1.3, 1.9))
        paint(ellipse(x, y, r, r), "#fff6da", rng.uniform(0.35, 0.95) * (1 - y / 800))
    glow(690, 330, 620, "#f6dfa6", 0.50)
    paint(ellipse(690, 330, 262, 262), "#fbeecb")
    moon = coverage(ellipse(690, 330, 262, 262))
    for x, y, r in ((560, 200, 46), (640, 150, 20), (830, 240, 54), (880, 340, 26), (520, 300, 24), (790, 140, 26),
                    (500, 430, 40), (890, 460, 30)):
        paint(ellipse(x, y, r, r * 0.94, wobble=0.03), "#e9d5a3", 0.55, moon)


def forest():
    for base, colour, size in ((640, "#33467b", 60), (705, "#24345f", 76), (780, "#182546", 92)):
        crowns, x = [], -60.0
        while x < WIDTH + 80:
            crowns += ellipse(x, base + rng.uniform(-26, 26), size * rng.uniform(0.8, 1.35), size * rng.uniform(0.6, 1.1),
                              wobble=0.06)
            x += size * rng.uniform(0.75, 1.2)
        crowns.append([(0, base), (WIDTH, base), (WIDTH, HEIGHT), (0, HEIGHT)])
        paint([p if area(p) > 0 else p[::-1] for p in crowns], colour)
        for _ in range(9):  # a few palms stand out
            px, py = rng.uniform(0, WIDTH), base - rng.uniform(50, 110)
            if 380 < px < 1000:
                continue
            paint(stroke([(px, py), (px + 6, base + 30)], 5, 8), colour)
            for k in range(7):
                a = math.pi * (0.95 + 1.1 * k / 6)
                tip = (px + 52 * math.cos(a), py + 36 * math.sin(a) + 26)
                mid = (px + 34 * math.cos(a), py + 40 * math.sin(a))
                paint(f"M{px} {py} C{mid[0]} {mid[1]} {mid[0]} {mid[1]} {tip[0]} {tip[1]} "
                      f"C{mid[0]} {mid[1] + 14} {px} {py + 10} {px} {py} Z", colour)


BRANCH = "M-20 590 C120 640 240 668 400 664 C640 652 900 622 1120 628 C1320 632 1480 600 1620 548 " \
         "L1620 582 C1480 644 1330 676 1130 680 C900 690 640 730 400 742 C240 748 120 728 -20 700 Z"


def branch():
    wood = paint(BRANCH, between([(560, "#4b3a37"), (640, "#3a2b2d"), (740, "#1d1620")]))
    for _ in range(120):
        x, y = rng.uniform(0, WIDTH), rng.uniform(570, 740)
        w = rng.uniform(30, 120)
        paint(stroke([(x, y), (x + w / 2, y - rng.uniform(-4, 6)), (x + w, y - rng.uniform(-2, 8))], 2.4, 0.8),
              rng.choice(("#191219", "#5d4a42")), 0.4, wood)
    top = along("M-20 594 C120 644 240 672 400 668 C640 656 900 626 1120 632 C1320 636 1480 604 1620 552")
    paint(stroke(top, 9), "#7d8a5a", 0.85, wood)
    paint(stroke([(x, y - 3) for x, y in top], 3), "#cfd49a", 0.7, wood)
    for x, y in top[4::3]:  # moss
        if rng.random() < 0.55:
            paint(ellipse(x + rng.uniform(-12, 12), y + 7, rng.uniform(9, 22), rng.uniform(5, 11), wobble=0.12),
                  "#5c6f47", 0.8, wood)
    for x, length in ((1290, 150), (1440, 210), (120, 120)):  # lianas
        line = along(f"M{x} 640 C{x + 12} {640 + length * .4} {x - 16} {640 + length * .7} {x + 4} {640 + length}")
        paint(stroke(line, 5, 2), "#1d2a33")
        for i in range(3, len(line), 4):
            lx, ly = line[i]
            leaf(lx, ly, 26, rng.choice((-0.5, 3.6)) + rng.uniform(-.3, .3), "#1f3a3c", "#35595a")


FUR, DARK, PALE, WARM = "#cf9552", "#33201a", "#fbeed6", "#a8672f"
BODY = "M512 668 C470 560 520 470 640 456 C760 440 910 432 1000 486 C1068 528 1098 596 1066 636 C1030 674 640 694 512 668 Z"
HEAD = "M588 316 C648 312 704 352 712 416 C718 440 728 452 744 466 C726 472 714 478 706 492 C684 538 636 556 588 556 " \
       "C540 556 492 538 470 492 C462 478 450 472 432 466 C448 452 458 440 464 416 C472 352 528 312 588 316 Z"


def rosette(x, y, size, turn, clip):
    """A dark ring that is open somewhere, around a warmer centre."""
    paint(ellipse(x, y, size * 1.15, size * 0.78, turn, 0.07), DARK, 0.95, clip)
    dx, dy = math.cos(turn) * size * 0.14, math.sin(turn) * size * 0.14
    paint(ellipse(x + dx, y + dy, size * 0.74, size * 0.42, turn, 0.07), WARM, 1.0, clip)
    if rng.random() < 0.6:
        paint(ellipse(x - dx * 8, y - dy * 8, size * 0.3, size * 0.2, turn), FUR, 1.0, clip)
    if rng.random() < 0.5:
        paint(ellipse(x + dx, y + dy, size * 0.16, size * 0.12, turn), DARK, 0.9, clip)


def fur(clip, box, count, lean, light="#f0c788", dark="#8a5427"):
    """Short hairs, so that nothing looks like plastic."""
    x0, y0, x1, y1 = box
    for _ in range(count):
        x, y, n = rng.uniform(x0, x1), rng.uniform(y0, y1), rng.uniform(7, 15)
        a = lean(x, y) + rng.uniform(-0.3, 0.3)
        paint(stroke([(x, y), (x + n * math.cos(a), y + n * math.sin(a))], 1.5, 0.6), rng.choice((light, dark)),
              0.30, clip)


def tail():
    line = along("M1012 624 C1140 590 1196 640 1188 716 C1182 774 1130 796 1136 846 C1140 878 1176 884 1196 862")
    whole = coverage(stroke(line, 58, 40))
    paint(stroke(line, 58, 40), FUR)
    paint(stroke([(x - 12, y + 4) for x, y in line], 30, 20), "#9a6230", 0.45, whole)
    for i in range(5, len(line) - 1, 4):
        (x0, y0), (x1, y1) = line[i - 1], line[i + 1]
        a = math.atan2(y1 - y0, x1 - x0)
        nx, ny = -math.sin(a) * 40, math.cos(a) * 40
        x, y = line[i]
        if x < 1070 and y < 640:
            continue  # the rump is in front of it
        paint(stroke([(x - nx, y - ny), (x + nx, y + ny)], 15), DARK, 0.95, whole)
    paint(stroke(line[-5:], 50, 44), DARK, 0.95, whole)
    paint(stroke([(x + 22, y - 6) for x, y in line[:22]], 6), "#ffe6b0", 0.45, whole)


def body():
    clip = paint(BODY, between([(430, "#dca566"), (560, FUR), (680, "#9c6433")]))
    paint("M520 680 C600 640 860 628 1090 640 L1090 700 L520 700 Z", "#f3dfc0", 0.35, clip)
    for j, y in enumerate((474, 512, 552, 594, 636)):
        for i in range(11):
            x = 552 + i * 52 + (26 if j % 2 else 0) + rng.uniform(-7, 7)
            size = 16 + 3 * math.sin(j * 1.7 + i) + (3 if 1 <= j <= 3 else -2)
            rosette(x, y + rng.uniform(-6, 6) + 10 * math.sin((x - 560) / 150), size, rng.uniform(-0.35, 0.2), clip)
    haunch = coverage("M900 668 C884 590 930 520 1010 522 C1070 526 1096 590 1082 662 Z")
    paint(stroke(along("M902 668 C884 590 930 522 1008 522"), 7), "#6d3f1d", 0.55, clip)
    paint(ellipse(985, 560, 70, 46), "#f4cd90", 0.16, haunch)
    fur(clip, (520, 450, 1085, 660), 620, lambda x, y: 0.25)
    top = along("M560 500 C600 470 640 459 700 452 C800 440 920 438 1000 489 C1040 514 1066 544 1076 576")
    paint(stroke(top, 11), "#fff0c4", 0.55, clip)  # the moon on her back
    paint("M470 500 C520 540 660 560 760 470 C770 560 700 650 600 690 L470 690 Z", "#3a2112", 0.30, clip)
    foot = paint(ellipse(900, 660, 82, 26, -0.06), "#e3b071")
    paint(ellipse(905, 674, 80, 18, -0.06), "#8d5a2e", 0.35, foot)
    for x in (838, 856, 876):
        paint(stroke([(x, 654), (x - 3, 672)], 3.2, 2), "#5a3417", 0.8, foot)
    for x in (920, 948, 968):
        paint(ellipse(x, 650, 8, 5, 0.2), DARK, 0.9, foot)


def paws():
    for path, box, toes in (
        ("M520 530 C496 580 498 700 506 742 C512 776 566 778 574 744 C580 700 586 660 604 560 C606 520 540 500 520 530 Z", (505, 600, 580, 770), 540),
        ("M604 560 C616 640 614 690 622 722 C630 752 682 750 688 718 C692 676 706 600 690 530 C672 500 606 520 604 560 Z", (612, 600, 690, 745), 655),
    ):
        clip = paint(path, between([(540, "#b57c40"), (640, FUR), (715, "#e0ae70"), (770, PALE)]))
        for i in range(20):
            x = box[0] + 10 + i % 4 * 18 + (8 if i // 4 % 2 else 0) + rng.uniform(-3, 3)
            y = box[1] - 6 + i // 4 * 24 + rng.uniform(-5, 5)
            paint(ellipse(x, y, rng.uniform(5, 8), rng.uniform(3.4, 5), rng.uniform(-.5, .5), 0.1), DARK, 0.92, clip)
        fur(clip, box, 60, lambda x, y: 1.5)
        left = coverage([[(0, 0), (box[0] + 16, 0), (box[0] + 16, HEIGHT), (0, HEIGHT)]])
        paint(path, "#4a2a14", 0.28, left)
        for dx in (-13, 11):
            paint(stroke([(toes + dx, box[3] - 30), (toes + dx + 1, box[3] - 8)], 3.4, 2.4), "#6b4423", 0.9, clip)


def chest():
    """A pale bib under the chin, in tufts."""
    for x, y, n in ((548, 556, 40), (570, 566, 54), (592, 570, 62), (614, 568, 54), (636, 558, 42)):
        paint(f"M{x - 17} {y - 26} C{x - 18} {y} {x - 6} {y + n * .6} {x} {y + n} C{x + 6} {y + n * .6} {x + 18} {y} "
              f"{x + 17} {y - 26} Z", "#eed6ae", 0.95)


def ears():
    for flip in (1, -1):
        def at(text):
            return [[(588 + flip * (x - 588), y) for x, y in p] for p in flatten(text)]
        ear = paint(at("M476 410 C450 360 440 300 464 276 C492 250 546 290 566 330 Z"), FUR)
        paint(at("M480 392 C464 356 456 314 472 296 C492 280 528 306 546 336 Z"), "#3b221b", 0.95, ear)
        paint(at("M496 384 C484 358 478 334 488 324 C502 316 524 330 536 348 Z"), "#b9756a", 0.75, ear)
        for k in range(9):
            x = 492 + k * 6
            tip = at(f"M{x} {386 - k * 4} L{x - 10 + k * 3} {330 - k}")[0]
            paint(stroke(tip, 3, 1), PALE, 0.65, ear)
        paint(stroke(at("M470 396 C450 352 444 304 465 282 C492 258 540 292 560 326")[0], 5), "#fff0c4", 0.75, ear)


def head():
    ears()
    clip = paint(HEAD, between([(316, "#dfa765"), (440, FUR), (556, "#c58a48")]))
    paint(ellipse(588, 520, 92, 52), PALE, 0.95, clip)
    for x in (540, 636):
        paint(ellipse(x, 424, 56, 52), PALE, 0.85, clip)
        paint(ellipse(x + (x - 588) * 1.0, 496, 42, 24), PALE, 0.55, clip)
    paint("M566 400 C578 380 598 380 610 400 L616 490 L560 490 Z", "#cf9552", 0.9, clip)
    fur(clip, (440, 320, 740, 550), 420, lambda x, y: math.atan2(y - 440, x - 588))
    marks = (("M588 322 C588 346 588 366 588 388", 9), ("M566 322 C560 346 562 366 572 390", 9),
             ("M610 322 C616 346 614 366 604 390", 9), ("M542 330 C530 346 526 362 526 374", 9),
             ("M634 330 C646 346 650 362 650 374", 9), ("M514 348 C502 360 496 374 494 392", 8),
             ("M662 348 C674 360 680 374 682 392", 8))
    for path, width in marks:
        paint(stroke(along(path), width, 5), DARK, 0.95, clip)
    for flip in (1, -1):
        for path, width in (("M500 448 C486 458 470 464 446 468", 8), ("M506 478 C492 490 482 494 466 494", 8),
                            ("M520 506 C510 516 500 522 486 524", 6)):
            line = [(588 + flip * (x - 588), y) for x, y in along(path)]
            paint(stroke(line, width, 4), DARK, 0.92, clip)
    paint(stroke(along("M470 410 C474 356 528 316 588 318 C648 316 702 356 706 410"), 8), "#fff0c4", 0.5, clip)
    eyes()
    paint("M562 484 C574 476 602 476 614 484 C614 496 600 508 588 512 C576 508 562 496 562 484 Z", "#c9727a")
    paint("M570 485 C578 481 598 481 606 485 C602 490 574 490 570 485 Z", "#f0b1ae", 0.8)
    paint(stroke(along("M588 511 L588 524"), 4), DARK)
    for flip in (1, -1):
        mouth = [(588 + flip * (x - 588), y) for x, y in along("M588 524 C580 536 562 538 550 528")]
        paint(stroke(mouth, 4.2, 2.6), DARK)
        for k, (y, drop) in enumerate(((500, -26), (508, 2), (517, 30))):
            for dot in range(2):
                paint(ellipse(588 + flip * (34 + dot * 15), y + k * 2, 2.4, 2.4), DARK, 0.8)
            whisker = [(588 + flip * (x - 588), y2) for x, y2 in
                       along(f"M556 {y} C500 {y - 10} 450 {y + drop - 8} 398 {y + drop + 8}")]
            paint(stroke(whisker, 2.6, 0.9), "#fffaf0", 0.95)


def eyes():
    for x in (540, 636):
        paint(ellipse(x, 426, 44, 43), DARK)
        iris = paint(ellipse(x, 426, 38, 37.5), between([(388, "#8c9a2c"), (426, "#d8c84a"), (464, "#f7e27a")]))
        for k in range(44):
            a = 2 * math.pi * k / 44
            paint(stroke([(x + 20 * math.cos(a), 426 + 24 * math.sin(a)), (x + 36 * math.cos(a), 426 + 36 * math.sin(a))],
                         1.6, 0.8), rng.choice(("#6c7420", "#fff2a8")), 0.4, iris)
        paint(ellipse(x, 427, 23, 28), "#120c0c")
        paint(ellipse(x, 396, 44, 18), "#33201a", 0.30, iris)
        paint(ellipse(x + 11, 413, 9.5, 10.5), "#ffffff")
        paint(ellipse(x - 11, 441, 5, 5), "#ffffff", 0.8)
        out = 1 if x > 588 else -1
        paint(stroke([(x + out * 36, 402), (x + out * 54, 390)], 7, 3), DARK)
        paint(stroke([(x - out * 36, 448), (x - out * 46, 464)], 8, 4), DARK)


def leaf(x, y, size, turn, colour, rib):
    """One leaf from its stem on, with its rib."""
    def at(u, v):
        return (x + size * (u * math.cos(turn) - v * math.sin(turn)), y + size * (u * math.sin(turn) + v * math.cos(turn)))
    points = [at(u, 0.30 * math.sin(math.pi * u ** 0.8)) for u in (i / 24 for i in range(25))]
    points += [at(u, -0.30 * math.sin(math.pi * u ** 0.8)) for u in (1 - i / 24 for i in range(25))]
    clip = paint([points], colour)
    paint(stroke([at(0, 0), at(0.95, 0)], max(1.4, size / 48), 0.8), rib, 0.9, clip)
    if size > 80:
        for i in range(1, 9):
            u = i / 10
            for side in (1, -1):
                paint(stroke([at(u, 0), at(u + 0.13, side * 0.30)], 1.8, 0.8), rib, 0.55, clip)


def foreground():
    for x, y, size, turn in (
        (-30, 330, 330, -0.35), (-40, 200, 300, 0.25), (-30, 60, 290, 0.75), (60, -50, 260, 1.25), (-40, 430, 240, 0.35),
        (1640, 250, 330, 3.05), (1640, 110, 330, 2.6), (1600, -40, 300, 2.15), (1460, -60, 230, 1.8), (1650, 380, 260, 3.4),
        (-20, 920, 330, -0.75), (120, 940, 260, -1.25), (-50, 800, 270, -0.2),
        (1630, 930, 340, -2.45), (1480, 950, 260, -1.9), (1650, 800, 270, -2.95),
    ):
        shade = rng.choice((("#0d2a2e", "#1f4a49"), ("#103436", "#2a5c56"), ("#0a2127", "#1a4044")))
        leaf(x, y, size, turn + rng.uniform(-.08, .08), *shade)
    for _ in range(26):
        x, y = rng.uniform(60, WIDTH - 60), rng.uniform(380, 880)
        if 430 < x < 1110 and y < 760:
            continue
        glow(x, y, rng.uniform(14, 30), "#e8f59a", 0.75)
        paint(ellipse(x, y, 2.2, 2.2), "#fbffd9")


def shade_branch():
    """Her shadow, before she lies down."""
    wood = coverage(BRANCH)
    paint(ellipse(800, 684, 320, 26, -0.03), "#0d0910", 0.55, wood)


# ---- the file -------------------------------------------------------------------------------------------------

def png():
    """The rows as a PNG; each row is stored as the difference that is smallest."""
    packed, before = bytearray(), bytes(ACROSS * 3)
    for row in rows:
        line = bytes(min(255, max(0, round(c / 3) * 3)) for p in row for c in p)  # nobody sees it, and it packs
        left = bytes(3) + line[:-3]
        up_left = bytes(3) + before[:-3]
        tries = {
            1: bytes((a - b) & 255 for a, b in zip(line, left)),
            2: bytes((a - b) & 255 for a, b in zip(line, before)),
            4: bytes((a - paeth(l, u, c)) & 255 for a, l, u, c in zip(line, left, before, up_left)),
        }
        best = min(tries, key=lambda kind: sum(min(v, 256 - v) for v in tries[kind]))
        packed += bytes([best]) + tries[best]
        before = line

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", ACROSS, DOWN, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(packed), 9))
            + chunk(b"IEND", b""))


def paeth(left, up, up_left):
    guess = left + up - up_left
    a, b, c = abs(guess - left), abs(guess - up), abs(guess - up_left)
    return left if a <= b and a <= c else up if b <= c else up_left


if __name__ == "__main__":
    for part in (sky, forest, branch, shade_branch, tail, body, paws, chest, head, foreground):
        part()
    (Path(__file__).parent / "www" / "night.png").write_bytes(png())
