"""LiteRT and its predecessor, tflite-runtime."""
