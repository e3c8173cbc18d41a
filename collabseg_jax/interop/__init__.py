"""Weights in from the tools people already use."""

from collabseg_jax.interop.pretrained import load_pretrained

__all__ = ["load_pretrained"]
