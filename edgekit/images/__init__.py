"""Labelled image sets: reading, preprocessing, selection, and overlap between sets."""
