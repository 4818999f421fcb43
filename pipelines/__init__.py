"""What a user runs: the command line, the recipes, and one readable list of stages per job."""
