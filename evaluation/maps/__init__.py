"""Maps of two or three dimensions: projection, quality, figures, export."""
