"""One file for each word of `--mode`: what the program can be asked to do."""
