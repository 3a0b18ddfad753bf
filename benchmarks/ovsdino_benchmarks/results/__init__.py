"""Result files, and the environment in which they were measured."""
