"""The limits that every store checks before a transaction is sent."""

from __future__ import annotations

from controller.store.base import MAX_OPERATIONS, MAX_REQUEST_BYTES, Guard, RequestTooLarge, Transaction


def guarded_keys(transaction: Transaction) -> list[str]:
    """Each guarded key once, in order. The failure branch reads these keys, and then `guarded_prefixes`."""
    return list(dict.fromkeys(guard.key for guard in transaction.guards if not guard.is_prefix))


def guarded_prefixes(transaction: Transaction) -> list[Guard]:
    """Each guard of a prefix once, in order."""
    return list(dict.fromkeys(guard for guard in transaction.guards if guard.is_prefix))


def check_limits(transaction: Transaction) -> None:
    """Refuse, before it is sent, a transaction that etcd would refuse.

    Raises RequestTooLarge, and ValueError for a key that is written twice.
    """
    operations = transaction.operations()
    if operations > MAX_OPERATIONS:
        raise RequestTooLarge(
            f"the transaction has {operations} operations, and etcd accepts {MAX_OPERATIONS}: split it"
        )
    size = transaction.size()
    if size > MAX_REQUEST_BYTES:
        raise RequestTooLarge(f"the transaction has {size} bytes, more than {MAX_REQUEST_BYTES}: split it")
    keys = [write.key for write in transaction.writes]
    if len(set(keys)) < len(keys):
        raise ValueError(
            f"a transaction writes a key twice: {sorted(k for k in set(keys) if keys.count(k) > 1)}"
        )
