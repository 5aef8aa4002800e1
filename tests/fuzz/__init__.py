"""Coverage-guided fuzzing of everything that parses bytes of others: `./dev fuzz`."""
