"""Three small booking sites, each with pages of its own: the outside world of the hotel example.

`python -m examples.hotel.sites` starts them. `books` keeps what all three have on record; each site has a file.
"""
