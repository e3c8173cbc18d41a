"""What a run is: its config, its objects, its record, checkpoints, processes and console."""
