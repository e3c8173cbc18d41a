"""Weights in from the tools people already use, and out to them."""

from collabseg_jax.interop.pretrained import from_pretrained, load_pretrained

__all__ = ["from_pretrained", "load_pretrained"]
