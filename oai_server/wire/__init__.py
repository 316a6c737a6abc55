"""The JSON shapes of the API as frozen Structs, one file a resource, and the checks that stand before the backend."""
