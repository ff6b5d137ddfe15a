"""Several devices that train one model, each on its part of a batch."""
