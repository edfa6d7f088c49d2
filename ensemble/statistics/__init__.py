"""Bootstrap intervals and splits of dev rows."""
