"""Embeddings and words: captions, zero-shot labels, correlations, the modality gap."""
