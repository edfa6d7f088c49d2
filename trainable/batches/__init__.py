"""From examples to batches: tokenization, sampling, packing, padding, prefetching."""
