"""Files at the edge of the package: images, reflection lists, geometries, and safe writing."""
