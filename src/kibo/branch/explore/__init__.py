"""Exploring: strategies tried in parallel in forks of a branch, and the best of them committed.

`decisions` has the words between a policy and what carries it out, `policies/` those that come with Kibo. `search` is
the state machine that keeps the rules, `conduct` carries it out with a crew of threads (`crew`) or tasks (`tasks`).
`budget` is what it may use, `port` what it needs of a branch.
"""
