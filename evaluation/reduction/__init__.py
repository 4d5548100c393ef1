"""Evaluation of dimensionality reductions: retrieval by the number of dimensions, tables and figures."""
