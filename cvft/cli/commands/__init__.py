"""One file per command: what it is for, its arguments, and what it calls. Heavy imports wait until it runs."""
