"""Prefect flows over the steps of `chapterflow`: wiring, retries and schedules, no ML."""
