"""A comparison that shows itself: in a notebook, and as a plot on axes of one's own."""

from html import escape

import pandas as pd
from matplotlib.axes import Axes

from studies.comparison.answer import Comparison
from studies.report.figures import draw_front
from studies.report.rows import heading_of, headings_of, rows


class Answer(Comparison):
    """What `studies.compare` returns."""

    @classmethod
    def of(cls, comparison: Comparison) -> "Answer":
        """Return a comparison as one that shows itself."""
        return cls(**vars(comparison))

    def _repr_html_(self) -> str:
        """Show the answer, the table and all caveats in a notebook."""
        body = rows(self)
        table = pd.DataFrame(body).rename(columns=headings_of(body)) if body else None
        parts = [f"<p><b>{escape(self.answer())}</b></p>"]
        if table is not None:
            parts.append(f"<p>{escape(heading_of(self))}, {self.question}, in percent</p>")
            parts.append(table.to_html(index=False))
        notes = [f"<li>{escape(note)}</li>" for note in [*self.remarks(), *self.notes]]
        return "".join([*parts, "<ul>", *notes, "</ul>"])

    def plot_front(self, ax: Axes | None = None) -> Axes:
        """Draw standard against robust accuracy: a line for OAT, a mark for each retrained model.

        Args:
            ax: Where to draw; None is the current axes of pyplot.

        Returns:
            The axes, with labels and a legend.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.gca()
        draw_front(self, ax)
        ax.legend(fontsize="small")
        return ax
