"""Clustering of features: fits of every method, scores, tables and figures."""
