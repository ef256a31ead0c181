"""The file half of a branch: stacks of overlay layers, what differs between two, their merge, and one file of them."""
