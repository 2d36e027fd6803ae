"""The commands, in groups; `chapterflow.cli` puts them together."""
