"""HTTP routes, one file a resource.

`posts.json_post` makes a handler of a function that takes an `Incoming` request and returns the ASGI application
that answers. Those that generate go through `requests.answer`; `responses` and `messages` are said as chats first.
"""
