"""Sparse concepts of embeddings: sparse auto-encoders and SpLiCE, their concepts as tables and pictures."""
