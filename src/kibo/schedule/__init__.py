"""Runs: work that is queued, placed, tried again, stopped and told of, under a policy.

`submitting.Submission` takes runs in, from any process; `register.Register` is what a dispatcher knows of them. What is
decided is decided purely: `advance`, `failing`, `queue`, `reconciling`. See decision 0033.
"""
