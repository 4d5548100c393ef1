"""What embeddings are made of: sparse auto-encoders and SpLiCE, their concepts as tables and pictures."""
