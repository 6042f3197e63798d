"""What a page tells of its browser."""

from typing import Any

FACTS: dict[str, Any] = {
    "user_agent": "Mozilla/5.0 (Linux; Android 16; Pixel 9) Chrome/150.0.0.0 Mobile Safari/537.36",
    "brands": [["Not;A=Brand", "8.0.0.0"], ["Chromium", "150.0.7000.1"], ["Google Chrome", "150.0.7000.1"]],
    "platform": "Android",
    "platform_version": "16.0.0",
    "architecture": "",
    "model": "Pixel 9",
    "cores": 8,
    "secure": False,
    "isolated": False,
    "simd": True,
    "dot_products": {"small": [-128] * 4, "large": [512] * 4},
    "clock_ms": 0.1,
}
"""Facts of a phone whose processor has a dot product."""
