"""A small server: photos in over HTTP, classes, costs and kept patches out."""
