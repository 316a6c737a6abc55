"""Between HTTP and the engine: chat templates, tool-call and reasoning parsers, grammars, the backend."""
