"""What the losses compare with: word embeddings and structure targets."""
