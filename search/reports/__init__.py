"""What a sweep found: leaderboard, importances, comparison, report, and a study of Optuna's."""
