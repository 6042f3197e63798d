"""Files and run folders, progress, interrupts, and imports of heavy libraries."""
