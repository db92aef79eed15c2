"""The proof: what an owner publishes, asks a suspect, and shows a judge."""
