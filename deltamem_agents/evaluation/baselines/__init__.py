"""Other ways to remember, through the same interface: what a memory has to be compared with."""
