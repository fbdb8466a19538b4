"""Changes of a weight as products of thin matrices: put together, cut off, measured."""
