"""The seam to etcd: transactions, watches and leases (`base`), the layout of keys, and the mapping to the
core's values.
"""
