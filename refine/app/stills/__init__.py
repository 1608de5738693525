"""Shoeboxes of stills, one or many: from images and a configuration to results."""
