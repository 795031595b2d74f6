"""How many sensitive instructions a guest's code has, and how often they run."""
