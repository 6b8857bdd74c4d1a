#!/usr/bin/env python3
"""Draws the cats in their boxes: one SVG each, into www/cats. Needs nothing but Python."""

from pathlib import Path

HERE = Path(__file__).parent
HEAD = "M120 54 C92 54 60 70 56 108 C52 122 46 126 42 132 C52 134 58 136 62 140 C76 160 98 166 120 166 " \
       "C142 166 164 160 178 140 C182 136 188 134 198 132 C194 126 188 122 184 108 C180 70 148 54 120 54 Z"
BODY = "M72 150 C62 176 60 200 60 226 L180 226 C180 200 178 176 168 150 Z"
LEFT_EAR = "M60 100 C54 74 54 46 62 28 C64 24 68 24 71 27 C86 40 98 52 106 66 Z"
ROUND_EAR = "M58 92 C46 74 44 48 58 38 C72 29 94 44 106 66 Z"
ROUND_INNER = "M64 82 C56 70 54 54 62 48 C72 43 86 54 94 68 Z"
LEFT_INNER = "M66 86 C62 68 62 52 66 41 C78 50 86 58 92 67 Z"

TABBY = """<path d="M120 54 v26 M106 56 l4 20 M134 56 l-4 20" stroke-width="8"/>
<path d="M52 112 q16 4 24 12 M50 128 q14 0 24 8 M188 112 q-16 4 -24 12 M190 128 q-14 0 -24 8" stroke-width="6"/>
<path d="M62 178 q16 8 22 4 M60 200 q18 8 26 4 M178 178 q-16 8 -22 4 M180 200 q-18 8 -26 4" stroke-width="8"/>"""
SPOTS = """<path d="M110 54 q-2 14 -8 24 M130 54 q2 14 8 24 M120 56 v16" stroke-width="5"/>
<path d="M88 66 q-10 8 -13 20 M152 66 q10 8 13 20" stroke-width="5"/><g fill="#47291a" stroke="none">
<circle cx="98" cy="86" r="3.4"/><circle cx="142" cy="86" r="3.4"/><circle cx="70" cy="98" r="3.4"/><circle cx="170" cy="98" r="3.4"/>
<circle cx="106" cy="94" r="2.6"/><circle cx="134" cy="94" r="2.6"/></g>
<path d="M54 116 q16 2 26 10 M52 130 q12 0 22 8 M186 116 q-16 2 -26 10 M188 130 q-12 0 -22 8" stroke-width="4"/>
<g stroke-width="5"><ellipse cx="80" cy="182" rx="9" ry="6"/><ellipse cx="104" cy="176" rx="8" ry="6"/>
<ellipse cx="160" cy="182" rx="9" ry="6"/><ellipse cx="136" cy="176" rx="8" ry="6"/><ellipse cx="120" cy="192" rx="8" ry="5"/>
<ellipse cx="84" cy="204" rx="9" ry="6"/><ellipse cx="156" cy="204" rx="9" ry="6"/></g>"""

CATS = {
    "margot": dict(
        fur="#d79a55", light="#fbeed6", mark="#47291a", eye="#c9d66b", nose="#d9808a", inner="#7d4a34", box="#8f6a43",
        eye_size=1.22, pattern=SPOTS, rings=True, says="a spotted margay with enormous eyes", label="this way up ↑ ↑"),
    "nimbus": dict(
        fur="#98a3b3", light="#dfe5ec", mark="#7b8797", eye="#f2b441", nose="#c78590", inner="#d8a7ab", box="#c39a68",
        asleep=True, fluff=True, pattern="", says="a fluffy grey cat, fast asleep", label="do not wake"),
    "inky": dict(
        fur="#25242e", light="#25242e", mark="#25242e", eye="#ffd84a", nose="#4a3a44", inner="#4b3a46", box="#b88c58",
        whisker="#8d8b98", pattern="", says="a black cat of which one sees mostly eyes", label="contents: unknown"),
    "tostada": dict(
        fur="#ee9a45", light="#fff0d9", mark="#c76a1d", eye="#69b36b", nose="#e2857c", inner="#f3b9a4", box="#ad8352",
        pattern=TABBY, wink=True, says="an orange tabby who winks", label="was: 6 glasses"),
    "pixel": dict(
        fur="#fbf7f0", light="#ffffff", mark="#3a3334", eye="#6fb7c9", nose="#ea9aa0", inner="#f4c3bf", box="#cda26e",
        pattern="""<path d="M40 20 h66 v46 l-12 40 h-40 Z" fill="#e3923f" stroke="none"/>
<path d="M200 20 h-62 l-4 50 q22 34 52 34 Z" fill="#3a3334" stroke="none"/>
<path d="M150 178 q26 -6 34 16 v34 h-40 Z" fill="#e3923f" stroke="none"/>""",
        ears=("#e3923f", "#3a3334"), tail="#e3923f", says="a calico with one orange and one black ear", label="64 KiB max"),
    "duchess": dict(
        fur="#efe3cf", light="#f7efe1", mark="#5b4336", eye="#63a9e8", nose="#4b352c", inner="#6d5144", box="#a67c4e",
        pattern="""<radialGradient id="mask"><stop offset=".55" stop-color="#5b4336"/><stop offset="1" stop-color="#5b4336" stop-opacity="0"/>
</radialGradient><ellipse cx="120" cy="126" rx="62" ry="54" fill="url(#mask)" stroke="none"/>""",
        ears=("#5b4336", "#5b4336"), paws="#5b4336", tail="#5b4336", muzzle="#6a4f41", bow="#b8325f",
        says="a Siamese cat with a pink bow", label="sofa: granted"),
}


def eyes(cat):
    """Both eyes. The lids close now and then; one cat sleeps, and one has only one to close."""
    if cat.get("asleep"):
        return ('<g fill="none" stroke="#4a5361" stroke-width="4.5" stroke-linecap="round">'
                '<path d="M82 116 q13 11 26 0 M132 116 q13 11 26 0"/></g>')
    size = cat.get("eye_size", 1.0)
    parts = []
    for side, x in (("left", 94), ("right", 146)):
        if cat.get("wink") and side == "right":
            parts.append('<path d="M132 116 q14 -12 28 0" fill="none" stroke="#5c2f10" stroke-width="5" '
                         'stroke-linecap="round"/>')
            continue
        parts.append(
            f'<g class="eye" style="transform-origin:{x}px 113px">'
            f'<ellipse cx="{x}" cy="113" rx="{15 * size:.1f}" ry="{15.5 * size:.1f}" fill="{cat["eye"]}" '
            f'stroke="#1d1716" stroke-width="3"/>'
            f'<ellipse cx="{x}" cy="113" rx="{7.5 * size:.1f}" ry="{12.5 * size:.1f}" fill="#17120f"/>'
            f'<circle cx="{x + 5 * size:.1f}" cy="{113 - 5 * size:.1f}" r="{3.6 * size:.1f}" fill="#fff"/>'
            f'<circle cx="{x - 4 * size:.1f}" cy="{113 + 6 * size:.1f}" r="{1.8 * size:.1f}" fill="#fff" opacity=".8"/></g>')
    return "".join(parts)


def tail(cat):
    """Up behind the box, and gently waving."""
    curve = "M176 214 C214 206 226 176 214 150 C206 132 214 116 226 112"
    colour = cat.get("tail", cat["fur"])
    width = 26 if cat.get("fluff") else 19
    drawn = f'<path d="{curve}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>'
    if cat.get("rings"):
        drawn += (f'<path d="{curve}" fill="none" stroke="{cat["mark"]}" stroke-width="{width}" '
                  f'stroke-dasharray="7 15" stroke-dashoffset="4"/>')
    elif cat["pattern"] == TABBY:
        drawn += (f'<path d="{curve}" fill="none" stroke="{cat["mark"]}" stroke-width="{width}" '
                  f'stroke-dasharray="6 20" stroke-dashoffset="8"/>')
    return f'<g class="tail">{drawn}</g>'


def paw(x, cat):
    colour = cat.get("paws", cat["light"])
    return (f'<rect x="{x - 17}" y="164" width="34" height="30" rx="15" fill="{colour}" stroke="#1d1716" '
            f'stroke-opacity=".35" stroke-width="2"/><path d="M{x - 6} 183 v8 M{x + 6} 183 v8" stroke="#1d1716" '
            f'stroke-opacity=".45" stroke-width="2" stroke-linecap="round"/>')


def draw(name, cat):
    left, right = cat.get("ears", (cat["fur"], cat["fur"]))
    whisker = cat.get("whisker", "#fff")
    left_ear, left_inner = (ROUND_EAR, ROUND_INNER) if cat.get("rings") else (LEFT_EAR, LEFT_INNER)
    plate = max(108, 8 * len(cat["label"]))
    ruff = ""
    if cat.get("fluff"):
        ruff = (f'<path d="M66 150 q-14 6 -16 18 q10 -2 14 2 q-2 8 2 16 q10 -10 20 -6 q14 8 34 8 q20 0 34 -8 '
                f'q10 -4 20 6 q4 -8 2 -16 q4 -4 14 -2 q-2 -12 -16 -18 Z" fill="{cat["light"]}"/>'
                f'<path d="M108 56 q2 -16 10 -20 q-1 8 3 12 q4 -8 11 -9 q-4 9 1 18 Z" fill="{cat["fur"]}"/>')
    bow = ""
    if "bow" in cat:
        bow = (f'<g fill="{cat["bow"]}" transform="translate(62 46) rotate(-24)"><path d="M0 0 L-20 -13 Q-25 0 -20 13 Z"/>'
               f'<path d="M0 0 L20 -13 Q25 0 20 13 Z"/><circle r="6"/></g>')
    zzz = ""
    if cat.get("asleep"):
        zzz = ('<g class="zzz" fill="none" stroke="#7b8797" stroke-width="3.5" stroke-linecap="round" '
               'stroke-linejoin="round"><path d="M188 66 h11 l-11 13 h11"/><path d="M206 42 h14 l-14 16 h14"/></g>')
    muzzle = cat.get("muzzle", cat["light"])
    mouth = "#5d5660" if name == "inky" else "#1d1716"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 244" role="img" aria-label="{cat['says']}">
<style>
@media (prefers-reduced-motion: no-preference) {{
.eye {{ animation: blink {5 + len(name) * .7:.1f}s infinite }}
.tail {{ animation: wave {3 + len(name) * .25:.2f}s ease-in-out infinite alternate; transform-origin: 176px 214px }}
.zzz {{ animation: rise 3.5s ease-in-out infinite }}
}}
@keyframes blink {{ 0%, 94%, 100% {{ transform: scaleY(1) }} 97% {{ transform: scaleY(.06) }} }}
@keyframes wave {{ from {{ transform: rotate(-3deg) }} to {{ transform: rotate(7deg) }} }}
@keyframes rise {{ 0%, 100% {{ opacity: .25 }} 50% {{ opacity: 1; transform: translateY(-4px) }} }}
</style>
<defs><clipPath id="fur"><path d="{HEAD}"/><path d="{BODY}"/></clipPath></defs>
<ellipse cx="120" cy="234" rx="104" ry="8" opacity=".16"/>
<path d="M34 172 L52 158 H188 L206 172 V190 H34 Z" fill="#4d3722"/>
{tail(cat)}
<path d="{BODY}" fill="{cat['fur']}"/>
<path d="{left_ear}" fill="{left}"/><path d="{left_inner}" fill="{cat['inner']}"/>
<g transform="matrix(-1 0 0 1 240 0)"><path d="{left_ear}" fill="{right}"/><path d="{left_inner}" fill="{cat['inner']}"/></g>
{ruff}<path d="{HEAD}" fill="{cat['fur']}"/>
<g clip-path="url(#fur)" fill="none" stroke="{cat['mark']}" stroke-linecap="round">{cat['pattern']}</g>
<ellipse cx="106" cy="142" rx="18" ry="14" fill="{muzzle}"/><ellipse cx="134" cy="142" rx="18" ry="14" fill="{muzzle}"/>
<ellipse cx="120" cy="153" rx="13" ry="10" fill="{muzzle}"/>
{eyes(cat)}
<path d="M111 130 q9 -5 18 0 q0 5 -9 11 q-9 -6 -9 -11 Z" fill="{cat['nose']}"/>
<path d="M120 141 v5 M120 146 q-7 8 -14 3 M120 146 q7 8 14 3" fill="none" stroke="{mouth}" stroke-width="2.4" stroke-linecap="round"/>
<g stroke="{whisker}" stroke-width="1.7" stroke-linecap="round" fill="none" opacity=".95"><path d="M94 140 Q66 134 40 140 M94 145 Q68 145 44 154"/><path d="M146 140 Q174 134 200 140 M146 145 Q172 145 196 154"/></g>
<g stroke="#1d1716" stroke-width="1" stroke-opacity=".3" stroke-linecap="round" fill="none"><path d="M94 141 Q66 135 40 141 M94 146 Q68 146 44 155 M146 141 Q174 135 200 141 M146 146 Q172 146 196 155"/></g>
{bow}{zzz}
<path d="M34 176 H206 L200 236 H40 Z" fill="{cat['box']}"/>
<path d="M34 176 H206 L205 186 H35 Z" fill="#000" opacity=".14"/>
<path d="M34 176 L16 194 L28 204 L40 186 Z M206 176 L224 194 L212 204 L200 186 Z" fill="{cat['box']}"/>
<path d="M34 176 L16 194 L28 204 L40 186 Z M206 176 L224 194 L212 204 L200 186 Z" fill="#fff" opacity=".18"/>
<g transform="rotate(-2 120 218)"><rect x="{120 - plate / 2:g}" y="206" width="{plate}" height="22" rx="2" fill="#fff6e2"/>
<text x="120" y="221" text-anchor="middle" font-family="ui-monospace, 'DejaVu Sans Mono', monospace" font-size="11" fill="#4a3520">{cat['label']}</text></g>
{paw(90, cat)}{paw(150, cat)}
</svg>
"""


if __name__ == "__main__":
    for name, cat in CATS.items():
        (HERE / "www" / "cats" / f"{name}.svg").write_text(draw(name, cat))
