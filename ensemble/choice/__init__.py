"""Choice of the rule and the members that ship: request, decision, cross-fitted score, cost."""
