"""Files on disk, whole or absent: artifacts, tables, metrics, locks."""
