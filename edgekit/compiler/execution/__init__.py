"""Runs a graph in torch on many images, to calibrate it."""
