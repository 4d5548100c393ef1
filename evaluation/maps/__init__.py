"""Maps of two or three dimensions: made, measured, drawn, exported."""
