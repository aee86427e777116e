"""What readers are shown: projections of the model. They change nothing and ask nobody."""
