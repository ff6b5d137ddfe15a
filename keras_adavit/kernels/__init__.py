"""Linear layer, GELU, layer normalisation, attention and gather, in the form that each backend has fast kernels for."""
