"""The registry as a gatekeeper: gates, verdict, aliases, ledger."""
