"""What a start needs first: found, wished for, and copied together."""
