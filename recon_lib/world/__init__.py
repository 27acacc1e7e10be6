"""A simulated world with a known truth: pictures, a subject, a scanner, an experiment."""
