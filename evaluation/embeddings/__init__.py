"""Exploration of embeddings: nearest neighbours, interpolation, properties, and maps of new rows."""
