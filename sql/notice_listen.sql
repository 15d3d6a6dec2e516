-- Purpose: hear what other sessions and nodes did, by NOTIFY on commit. It holds no snapshot.
-- Caller: queue::notice::listen. Locks: none. Index: none.
listen walhook
