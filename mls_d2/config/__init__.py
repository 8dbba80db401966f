"""Config keys and their defaults, loading, rules, and what makes two recipes comparable."""
