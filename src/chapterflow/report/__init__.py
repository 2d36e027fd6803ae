"""What people see: tables for terminal and markdown, and live progress."""
