"""The one number that all label maps share."""

IGNORE = 255  # a pixel without a label; also why there are at most 255 classes
