-- Purpose: the time that everything in the queue goes by: its server's, which no node's clock is asked for.
-- Caller: queue::clock::server_time. Locks: none. Index: none.
select clock_timestamp()
