"""Print the last lines of a run: its main metrics, and the commands that open its results."""

from rich.markup import escape

from evaluation.report.tables import cluster_rows, cluster_table, edit_rows, edit_table, invariance_line, metric_table
from training.metrics import not_finite, not_finite_line
from training.run_folder import Run

__all__ = ["print_summary"]


def print_summary(run: Run) -> None:
    """Print a table of the main metrics, whether the run was shortened, and the commands that open its results."""
    tables = (edit_table, edit_rows), (cluster_table, cluster_rows), (metric_table, bool)
    console, metrics = run.console, run.metrics
    console.print()
    console.print(next(draw(metrics) for draw, rows in tables if rows(metrics)))
    if line := invariance_line(metrics):
        console.print(f"\n{line}", markup=False)
    if run.shortened:
        console.print(f"\n[bold]{run.shortened}[/]", soft_wrap=True)
    if line := not_finite_line(not_finite(metrics)):
        console.print(f"\n[bold]{escape(line)}[/]", soft_wrap=True)
    console.print(f"\nOpen: {run.path / 'report.html'}", soft_wrap=True, markup=False)
    console.print(f"      tensorboard --logdir {run.path / 'tensorboard'}", soft_wrap=True, markup=False)
