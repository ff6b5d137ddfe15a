"""Several devices, of one host or several, that train one model, each on its part of a batch."""
