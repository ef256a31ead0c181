"""What boxes do to the world outside them. Here, and nowhere else, is a box's way to the network.

`forwarder` is the process and its orders, `door` one box's proxy, `destinations` decides where a request may go,
`http_head` reads and rewrites requests, and `unopened` carries what nobody looks into.
"""
