"""Words that every part shares: errors, ids and limits. Plain data, imported on the host and inside boxes."""
