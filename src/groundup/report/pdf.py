"""Figures as PDF, drawn by matplotlib mark by mark, its own notions of a chart left out."""

import io
import warnings
from typing import Any

from groundup.report.drawing import (
    LIGHT,
    LINE_SHIFT,
    PDF_FONTS,
    POINTS_PER_INCH,
    Drawing,
    Mark,
    Point,
    outline_of,
)
from groundup.report.wording import neutral


def file_pdf(drawing: Drawing, label: str) -> bytes:
    """The figure as PDF, a pixel to a point; equal figures give equal bytes.

    Text is never read as a formula. A letter that the font lacks is drawn as an empty box.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context({"font.family": PDF_FONTS, "pdf.fonttype": 3, "text.usetex": False}):
        size = drawing.width / POINTS_PER_INCH, drawing.height / POINTS_PER_INCH
        figure = Figure(figsize=size, dpi=POINTS_PER_INCH, facecolor=LIGHT["paper"])
        for order, mark in enumerate(drawing.marks):
            for artist in pdf_artists(mark, drawing.height, figure.dpi_scale_trans):
                artist.set_zorder(order)
                figure.add_artist(artist)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            metadata = {
                "Title": neutral(label),
                "CreationDate": None,
                "Producer": None,
                "Creator": "groundup",
            }
            FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
    return buffer.getvalue()


def pdf_artists(mark: Mark, height: float, transform: Any) -> list[Any]:
    """What matplotlib draws for a mark."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Polygon
    from matplotlib.text import Text

    def place(point: Point) -> Point:
        return point[0] / POINTS_PER_INCH, (height - point[1]) / POINTS_PER_INCH

    common: dict[str, Any] = {"alpha": mark.opacity, "transform": transform}
    colour = LIGHT[mark.tone]
    if mark.kind == "text":
        x, y = place((mark.points[0][0], mark.points[0][1] + LINE_SHIFT * mark.size))
        where = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
        return [
            Text(
                x,
                y,
                mark.text,
                color=colour,
                fontsize=mark.size,
                ha=where,
                va="baseline",
                fontweight="bold" if mark.bold else "normal",
                parse_math=False,
                **common,
            )
        ]
    points = [place(p) for p in (outline_of(mark) if mark.kind == "dot" else mark.points)]
    dashes: Any = (0, (4 / max(mark.weight, 1), 3 / max(mark.weight, 1))) if mark.dashed else "solid"
    if mark.kind == "line":
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return [
            Line2D(
                xs,
                ys,
                color=colour,
                linewidth=mark.weight,
                linestyle=dashes,
                solid_capstyle="round",
                **common,
            )
        ]
    outline = bool(mark.weight)
    common |= {
        "facecolor": "none" if outline else colour,
        "edgecolor": colour if outline else "none",
        "linewidth": mark.weight,
        "linestyle": dashes,
    }
    if mark.kind == "dot" and mark.shape == "circle":
        return [Circle(place(mark.points[0]), mark.size / POINTS_PER_INCH, **common)]
    return [Polygon(points, closed=True, **common)]
