"""The report of a run: report.html, the tables of the terminal and the charts."""
