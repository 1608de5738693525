"""Pure tensor formulas, one physical factor a file; nothing here knows a file, a parameter list or a solver."""
