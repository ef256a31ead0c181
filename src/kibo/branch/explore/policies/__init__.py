"""The policies that come with Kibo: each is data and two pure functions, as `kibo.branch.explore.decisions` says."""
