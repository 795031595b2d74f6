"""How guest code gets run."""
