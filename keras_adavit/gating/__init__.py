"""What a decision is: which patches, heads and sub-layers of a block an image uses."""
