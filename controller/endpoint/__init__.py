"""The read-only HTTP endpoint of a replica: health, the API, the event stream, the page."""
