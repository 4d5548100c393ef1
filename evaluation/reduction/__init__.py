"""Reductions of embeddings against the number of dimensions: asked, measured, drawn."""
