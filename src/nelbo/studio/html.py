"""Pieces of HTML: pictures with their names, tables, curves, notes. Every text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def note(text: str, more: str = "", how: str = "") -> str:
    """A line about a result, which a screen reader reads out.

    Args:
        text: the line.
        more: a further one in small letters.
        how: how the result was made, in technical words, for those who ask.
    """
    below = f'<p class="more">{escape(more)}</p>' if more else ""
    if how:
        below += f'<details class="more"><summary>How</summary>{escape(how)}</details>'
    return f'<p class="note" role="status">{escape(text)}</p>{below}'


def problem(text: str) -> str:
    """A line about an error."""
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def busy(task: str, share: float | None, left: str = "") -> str:
    """The progress of a task that ends if the visitor leaves, and the time that is left."""
    word = escape(task[:1].upper() + task[1:])
    if share is None:
        return f'<p class="note" role="status">{word} …</p><progress class="work" aria-label="{word}"></progress>'
    far = f"{100 * min(share, 1):.0f} %" + (f", about {escape(left)} left" if left else "")
    bar = f'<progress class="work" aria-label="{word}" max="1" value="{min(share, 1):.3f}"></progress>'
    return f'<p class="note" role="status">{word}: {far}</p>{bar}'


def uri(picture: Image.Image) -> str:
    """A picture as a data URI, in a PNG."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_uri(image: Tensor, levels: int) -> str:
    """An image of integer levels, shape (C, H, W), as a data URI; a transparent one over a chessboard."""
    from nelbo.report.pictures import over_checks, picture

    return uri(over_checks(picture(image, levels)))


def figures(images: Iterable[Tensor], levels: int, names: Sequence[str], size: str = "") -> str:
    """Images, each with its name below.

    Args:
        images: integer levels, uint8, each of shape (C, H, W).
        levels: L.
        names: the name of each.
        size: "large" for few images.
    """
    shown = "".join(
        f'<figure><img src="{image_uri(image, levels)}" alt="{escape(name, quote=True)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for image, name in zip(images, names, strict=True)
    )
    return f'<div class="pictures {size}">{shown}</div>'


def sheet(picture: Image.Image, name: str) -> str:
    """One picture over the whole width, with its name."""
    said = escape(name, quote=True)
    return f'<figure class="sheet"><img src="{uri(picture)}" alt="{said}"><figcaption>{said}</figcaption></figure>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table; the first cell of a row is its name."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headings)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(title: str, inside: str) -> str:
    """HTML that is shown when its title is pressed."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
        + "</dl>"
    )


def listed(lines: Iterable[str]) -> str:
    """A list of lines."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def framed(page: str, title: str) -> str:
    """A whole page, such as a report, in a frame without scripts, whose height the studio's own page measures."""
    return (
        f'<iframe class="report" sandbox="allow-same-origin" title="{escape(title, quote=True)}" '
        f'srcdoc="{escape(page, quote=True)}"></iframe>'
    )


WIDTH, HEIGHT, LEFT, BELOW = 560, 220, 56, 34


def curve(points: Sequence[tuple[float, float]], title: str, across: str, mark: float | None = None) -> str:
    """A curve as an SVG.

    Args:
        points: (x, y), with increasing x.
        title: the quantity with its unit; what a screen reader says.
        across: the quantity of x with its unit.
        mark: an x to mark; None for none.
    """
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    high = high if high > low else low + 1
    wide = (xs[-1] - xs[0]) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - xs[0]) / wide * (WIDTH - LEFT - 12)
        return right, 12 + (high - y) / (high - low) * (HEIGHT - BELOW - 12)

    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in points))
    axis = f"{LEFT},12 {LEFT},{HEIGHT - BELOW} {WIDTH - 12},{HEIGHT - BELOW}"
    line = ""
    if mark is not None:
        at = place(min(max(mark, xs[0]), xs[-1]), low)[0]
        line = f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="12" y2="{HEIGHT - BELOW}"/>'
    words = (
        f'<text x="{LEFT - 6}" y="20" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{HEIGHT - BELOW}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{xs[0]:,.4g}</text>'
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 12}" text-anchor="end">{xs[-1]:,.4g}</text>'
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>'
    )
    said = escape(f"{title}, from {ys[0]:.4g} to {ys[-1]:.4g}", quote=True)
    return (
        f'<figure class="curve"><figcaption>{escape(title)}</figcaption><svg role="img" aria-label="{said}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}"><polyline class="axis" points="{axis}"/>'
        f'<polyline class="line" points="{path}"/>{line}{words}</svg></figure>'
    )
