"""Files of the wild -> dataset directory -> batches."""
