"""Comparison of embeddings with texts: captions, zero-shot labels, correlations, the modality gap."""
