"""Definitions: boxes, actions, environments, composition, digests, skills and schemas. Pure: no input or output.

`define`, `env`, `policy`, `results` and `ship` are also imported inside boxes and stay light; what needs pydantic or
`inspect` (`schema`, `signature`, `tools`, `identity`) is imported on the host, on first use.
"""
