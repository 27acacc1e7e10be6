"""Errors, whole files and folders, and where they are kept."""
