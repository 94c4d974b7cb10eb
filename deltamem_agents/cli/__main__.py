"""`python -m deltamem_agents.cli` is `deltamem`."""

from deltamem_agents.cli import main

main()
