"""Edits of images by a finished network: made, composed, measured, drawn."""
