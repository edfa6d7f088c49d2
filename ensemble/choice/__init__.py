"""Which rule and which members ship: request, decision, cross-fitted score, cost."""
