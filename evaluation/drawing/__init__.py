"""What several tasks draw with: strips and grids of images, figures, heatmaps."""
