"""Weights in from the tools people already use, and out to them."""

from collabseg_jax.interop.out import FORMATS, to_pretrained
from collabseg_jax.interop.pretrained import from_pretrained, load_pretrained

__all__ = ["FORMATS", "from_pretrained", "load_pretrained", "to_pretrained"]
