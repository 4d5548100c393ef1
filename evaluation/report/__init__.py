"""report.html: the numbers and pictures of a run folder on one page."""
