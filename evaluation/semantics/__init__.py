"""What embeddings mean in words: captions, zero-shot labels, correlations, the modality gap."""
