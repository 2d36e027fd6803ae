"""One file per chapter model; `layers` holds the layers they share."""
