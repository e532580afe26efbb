"""The page at `/docs`: markup, style and script, served from the package; nothing comes from elsewhere."""
