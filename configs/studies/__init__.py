"""Studies: arms times seeds of one config, for --mode=study; `base` lists every key."""
