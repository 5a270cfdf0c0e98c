"""What is looked for in the rows before anything trains, a check in each file."""
