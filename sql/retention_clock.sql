-- Purpose: the time by which ages are counted: the server's, which no node's clock can be far from unnoticed.
-- Caller: queue::retention::look_after. Locks: none. Index: none.
select clock_timestamp()
