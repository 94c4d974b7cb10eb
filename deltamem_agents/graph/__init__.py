"""The memory in a graph: middleware, node, and the operators on one thread."""
