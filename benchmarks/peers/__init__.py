"""What users would pick otherwise: plain scripts, as the documentation of each library shows them.

A script reads a folder of `.npy` arrays, fits, scores the test split, and prints a JSON document.
It runs in the environment of its library and imports nothing of chapterflow.
"""
