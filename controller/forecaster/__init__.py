"""Looks ahead for a replica or a gateway, in processes of their own, so that its loop is not held up."""
