"""What an agent knows: a log of typed entries that branches with everything else, and the prompts made of it."""
