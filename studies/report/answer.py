"""A comparison that shows itself: in a notebook, and as a plot on axes of one's own."""

from html import escape

from matplotlib.axes import Axes

from oat.names import unknown
from studies import notebook
from studies.comparison.answer import Comparison
from studies.errors import ComparisonError
from studies.report.figures import PLAIN_TEXTS, draw_front
from studies.report.panels import BEST_OF_EACH, panels
from studies.report.radius_figures import draw_panel
from studies.report.radius_rows import BY_RADIUS, radius_rows
from studies.report.rows import MEANINGS, heading_of, headings_of, rows


class Answer(Comparison):
    """What `studies.compare` returns."""

    @classmethod
    def of(cls, comparison: Comparison) -> "Answer":
        """Return a comparison as one that shows itself."""
        return cls(**vars(comparison))

    def _repr_html_(self) -> str:
        """Show the answer, the table and all caveats in a notebook."""
        parts = [f"<p><b>{escape(self.answer())}</b></p>"]
        if body := rows(self):
            names = headings_of(body)
            caption = f"{self.heading}; {heading_of(self)}; SA and RA in percent, Δ in points"
            parts.append(notebook.table(caption, body, names))
            parts.append(notebook.legend({names[key]: MEANINGS[key] for key in names}))
        if by_radius := radius_rows(self):
            parts.append(
                notebook.table(BY_RADIUS, by_radius, {name: name for name in by_radius[0]})
            )
        return "".join([*parts, "<p>Caveats</p>", notebook.bullets(self.told())])

    @PLAIN_TEXTS
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

    @PLAIN_TEXTS
    def plot_radii(self, ax: Axes | None = None, value: str | None = None) -> Axes:
        """Draw RA by the radius of the attack.

        Args:
            ax: Where to draw; None is the current axes of pyplot.
            value: Which operating points: those of a trade-off value such as ``λ=0.2`` (with
                several widths ``λ=0.2 width=0.5``); None is of each method that with the largest
                area under its curve.

        Returns:
            The axes, with labels and a legend.

        Raises:
            ComparisonError: The models were attacked at one radius alone, or none has the value.
        """
        known = {panel.title: panel for panel in panels(self)}
        if not known:
            raise ComparisonError(
                "`plot_radii` needs points at several radii; name them in the study, such as "
                "`evaluate.attacks: [{name: pgd, eps: [4/255, 8/255]}]`."
            )
        chosen = BEST_OF_EACH if value is None else value
        if chosen not in known:
            raise ComparisonError(unknown("value", chosen, list(known)))
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.gca()
        draw_panel(self, known[chosen], ax)
        ax.set_xlabel("radius ε; at 0 RA is SA")
        ax.set_ylabel("robust accuracy RA, %")
        ax.legend(fontsize="small")
        return ax
