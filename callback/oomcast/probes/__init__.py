"""What can be seen of a process from outside; each probe is given a root and returns numbers, None where it can't."""
