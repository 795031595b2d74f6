"""The binary translator: guest bytes and a guest mode in, a cached block out."""
