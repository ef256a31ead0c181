"""The migrations, as alembic reads them: each goes from one revision to the next, and is never changed."""
