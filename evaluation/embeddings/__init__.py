"""Questions asked of embeddings: what is near, what lies between, what one property changes, where new rows lie."""
