"""Figures that several tasks share: strips and grids of images, charts, heatmaps."""
