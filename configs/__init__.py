"""One readable page for each run; `base` lists every key, `ablations` the usual comparisons."""
