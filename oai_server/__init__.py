"""OpenAI-compatible HTTP server.

Where to look, in the order in which a server starts and a request goes through it:

- `cli`, `commands`, `cli_options`, `vllm_flags`: the command line; `doctor`, `terminal_chat`: what it does without a
  server. `settings`, `settings_sources`, `settings_bounds`: every setting, where it comes from, what it may be.
- `start` puts checkpoint, engine and page together (`model_source`, `terminal`, `playground/`); `lifecycle.serve`
  binds the socket (`sockets`) and runs one `worker`, or a `parent` of several that share `shared_counts` and
  `shared_metrics`. `server` is uvicorn with our drain (`signals`); `app.create_app` is the ASGI application.
- A request comes through `protocol` (uvicorn's HTTP/1.1 with limits; `chunked` bodies, `cycle` writes the response),
  `connection` (request id, access log, refusals without a route; `record` is what is known of the request) and
  `auth` to its handler in `routes/`, which decodes and checks it with `wire/`.
- `calls` admits it to the backend and keeps its numbers (`request_times`, `telemetry`; `metrics_page` shows them);
  `streaming` sends what comes as server-sent events, `replies` sends it whole; `interrupts` ends it when its client
  leaves or the server drains. `limits` bounds what one key, and all bodies on their way, may hold.
- `errors` is the one error shape, `error_replies` makes replies of whatever a handler raised, `retry` says when a
  refused client may come back. `services` is what all of these share; there are no globals. `openapi` describes the
  API, `ids` makes request ids, `logs` sets logging up.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("qwen-oai-server")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
