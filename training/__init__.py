"""A run from settings to checkpoints: its folder, its stages, and the models that are trained in them."""
