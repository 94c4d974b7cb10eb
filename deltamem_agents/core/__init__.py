"""The delta rule as mathematics, and the memory as a value.

`state` and `codec` need numpy alone; `reference`, `scan` and `segments` need torch. Nothing is
imported here, so that a saver can take `deltamem_agents.core.state` without loading torch.
"""
