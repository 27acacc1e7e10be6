"""Loaders, splits and readers: a release, anybody's arrays, the real brain in the box."""

from recon_lib.data.loader import create_loader

__all__ = ["create_loader"]
