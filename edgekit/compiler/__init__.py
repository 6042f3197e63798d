"""From an exported graph to a rewritten and calibrated one."""
