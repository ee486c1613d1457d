"""Files that are whole or not there: artifacts, tables, metrics, locks."""
