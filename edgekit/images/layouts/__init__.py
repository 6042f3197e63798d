"""Layouts of labelled image sets: how they are recognized, listed and read. One file has one layout."""
