"""Captions that a model writes: how they are generated, and how they are scored."""
