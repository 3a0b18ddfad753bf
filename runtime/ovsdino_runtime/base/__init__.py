"""What every room uses: errors, strict JSON, traces, photos, and the results that a user holds."""
