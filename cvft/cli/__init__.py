"""The command line: `main` parses and gives exit codes, `commands/` has one file per command."""
