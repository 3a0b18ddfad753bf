"""Photos, videos and labels in; overlays, label files, JSON and GeoJSON out."""
