"""The seam to etcd: transactions, watches and leases (`base`), the key layout, the mapping to core values."""
