"""The invariants that an audit and the simulator check, and what they need: findings, attempts, histories."""
