"""What is in images: each is decoded once and measured, equal and alike ones are found, and all of it is told."""
