"""Tool calls in the text that a model writes: JSON, Python lists, and what stands around them."""
