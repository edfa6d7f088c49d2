"""What a sweep found: leaderboard and importances."""
