"""Read photos, videos and labels; write overlays, label files, JSON and GeoJSON."""
