"""The results of a sweep: leaderboard, importances, comparison, report, export to Optuna."""
