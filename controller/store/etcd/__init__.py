"""The store on etcd, over its JSON gateway."""
