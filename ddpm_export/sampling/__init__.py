"""From an opened model and what was asked for to pictures: generate and edit, in batches."""
