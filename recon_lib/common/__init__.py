"""Errors, whole files and folders, and where they are kept."""

from recon_lib.common.errors import DataError
