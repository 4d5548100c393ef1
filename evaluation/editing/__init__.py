"""Editing of images with an invertible network: edits, their composition into photographs, metrics and figures."""
