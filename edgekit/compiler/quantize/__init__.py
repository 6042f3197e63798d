"""INT8: where Q/DQ go, which ranges they get, and how weights are rounded."""
