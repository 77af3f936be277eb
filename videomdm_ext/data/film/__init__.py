"""Films of known motion: bodies worn by real motion, rendered, then watched and lifted as any video is."""
