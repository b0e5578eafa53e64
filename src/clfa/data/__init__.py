"""Raw files -> dataset directory -> batches."""
