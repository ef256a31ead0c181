"""The store: what Kibo must not forget, in one SQL database that every part above shares.

``database.Store`` opens it, ``log.Log`` is the one append-only log, ``schema`` has the tables, ``crash`` the named
points at which a test may kill the process, ``locking`` the locks between processes. Nothing here is imported by
`import kibo` or inside a box.
"""
