"""One file per chapter model; `parts` holds what they share."""
