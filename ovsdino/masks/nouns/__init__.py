"""From captions to the nouns worth looking for."""
