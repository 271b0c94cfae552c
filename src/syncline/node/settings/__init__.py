"""Settings, each declared once: `help`, files, environment and flags are made of the declarations."""
