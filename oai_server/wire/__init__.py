"""The JSON of the API as frozen Structs, and the checks that stand before the backend.

- Requests and replies, a file a resource: `chat`, `completions`, `responses`, `messages`, `generate`, `tokens`,
  `models`; `sampling`, `usage` and `logprobs` are parts of several. `responses` and `messages` also say their
  requests as chat requests, and errors about those in the client's own names
  (`message_blocks`, `message_reply`, `message_errors`).
- Streams: `chunks` frames events; `chat_chunks`, `completion_chunks`, `response_events` and `message_events` encode.
- Checks: `decoding` (bytes to Struct), `validate` (numbers and lists, with `bounds` and `unsupported`),
  `validate_chat` (conversation and tools), `constraints` (grammars), `depth`.
"""
