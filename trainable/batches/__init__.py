"""From examples to batches: tokens, order, padding, packing, prefetching."""
