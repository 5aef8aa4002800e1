"""What layers say: tars read into entries and chunks, and merged into one tree."""
