"""What was drawn into a figure, for tests: coordinates and texts, not bytes."""

from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study


def read(root, **options):
    """The study of the runs below a folder."""
    return study(*collect([root]), Options(**options))


def marks(axis, label):
    """(x, y) of the lines whose label begins with that, in the order drawn."""
    found = [line for line in axis.get_lines() if str(line.get_label()).startswith(label)]
    return [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in found]


def dots(axis, label):
    """(x, y) of every mark of those lines."""
    return [place for x, y in marks(axis, label) for place in zip(x, y, strict=True)]


def paths(axis, label):
    """(x, y) of every thin line that is drawn in a collection with that label."""
    found = [c for c in axis.collections if str(c.get_label()).startswith(label)]
    return [tuple(map(tuple, segment.T)) for c in found for segment in c.get_segments()]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def assert_inside(figure):
    """No text is cut off by the figure's edge, and no two of a panel lie on each other."""
    figure.set_dpi(200)  # as it is written
    figure.canvas.draw()
    width, height = figure.bbox.width, figure.bbox.height
    for axis in figure.axes:
        boxes = [(t.get_text(), t.get_window_extent()) for t in axis.texts if t.get_text()]
        ends = ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))
        ticks = [t for one, (low, high) in ends for t in one.get_major_ticks() if low <= t.get_loc() <= high]
        seen = [t.label1 if t.label1.get_visible() else t.label2 for t in ticks]
        for text, box in [*boxes, *((t.get_text(), t.get_window_extent()) for t in seen if t.get_text())]:
            assert -1 <= box.x0 <= box.x1 <= width + 1, text
            assert -1 <= box.y0 <= box.y1 <= height + 1, text
        for i, (text, box) in enumerate(boxes):
            for other, next_to in boxes[i + 1 :]:
                gap = box.x1 - 1 <= next_to.x0 or next_to.x1 - 1 <= box.x0
                assert gap or box.y1 - 1 <= next_to.y0 or next_to.y1 - 1 <= box.y0, (text, other)
