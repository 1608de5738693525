"""Named, bounded, symmetry-tied values on one side, one vector z on the other."""
