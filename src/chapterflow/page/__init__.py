"""The report: one page, whole in one file, of all that finished runs and their data tell."""
