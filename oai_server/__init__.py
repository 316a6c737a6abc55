"""OpenAI-compatible HTTP server."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("qwen-oai-server")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
