"""Messages and events between the instances of a branch: durable, in order, and part of the branch's world."""
