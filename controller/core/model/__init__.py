"""The model of a replica: values, the lifecycle, ledgers and queues, decoded and checked from the records."""
