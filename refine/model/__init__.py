"""Frozen nouns of the experiment and the forward model made of `refine.physics`."""
