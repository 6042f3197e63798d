"""Loads networks from timm, open_clip, the user's own code and checkpoint files, all as one `Network`."""
