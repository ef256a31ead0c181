"""A small real web shop that sells coffee: the outside world of the coffee demo.

`python -m examples.coffee.shop --help` starts it. `store` keeps the data, `app` has the pages, `trouble` is what
goes wrong on purpose.
"""
