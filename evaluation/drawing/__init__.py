"""Drawing that several tasks share: strips and grids of images, figures, heatmaps."""
