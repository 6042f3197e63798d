"""Browsers as devices: a page that edgekit serves runs LiteRT bundles, and edgekit judges what it returns."""
