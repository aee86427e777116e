"""What the leader does next: events and agenda, decisions, transitions, plans, repairs."""
