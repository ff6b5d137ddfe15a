"""What a model does: figures, by image and class, at several budgets, in tables and pictures."""
