"""Reports changes of the rules as they happen, and records them in a journal."""
