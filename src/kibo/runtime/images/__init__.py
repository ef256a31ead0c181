"""From an Env to layers: bases, build steps, and the interpreter that every box shares."""
