"""Two hundred explorers look for twenty programs, under one budget."""
