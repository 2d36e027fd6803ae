"""What chapter models share: the contract in `base`, their discovery in `registry`."""
