"""Copy metrics and their calibration."""
