"""Who we are at a registry: accounts, credential programs, tokens."""
