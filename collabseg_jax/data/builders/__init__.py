"""One file per data set: a `DatasetSpec` named SPEC and a TFDS builder."""
