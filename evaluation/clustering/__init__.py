"""Clusterings of features: fitted by every method, scored, drawn."""
