"""The virtual CPU: what the guest believes, and the semantics of what leaves the cache."""
