"""One step of two students, as pure functions of arrays."""
