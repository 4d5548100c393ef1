"""Sparse concepts of embeddings: sparse auto-encoders and SpLiCE, tables and figures of their concepts."""
