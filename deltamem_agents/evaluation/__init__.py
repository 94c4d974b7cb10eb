"""What a memory is worth, in numbers."""
