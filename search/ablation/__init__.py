"""Ablation studies: recipes trained over the same seeds and compared."""
