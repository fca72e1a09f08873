"""The command line: commands, options, one command's run, its reply, and the process around it."""
