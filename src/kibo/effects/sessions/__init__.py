"""Sessions: profiles by which somebody is signed in somewhere, each leased to one holder at a time.

A *profile* is a tree of files (cookies, storage) under a name, in versions. Who works with it holds its *lease*, loads
it into a box, and saves what the box made of it, which is merged into what the profile is by then.
"""
